"""Hold images as uint8 on the device and draw batches of float32 in [−1, 1] from them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cmpolicy.errors import InputError, needs_extra
from cmpolicy.images.catalogue import PUBLISHED, read_published
from cmpolicy.images.files import Pictures, check_images, checked_labels, read_npz

SPLITS = ("train", "test")
ROOTS = {
    "folder": "a folder of images, with one subfolder per class",
    "npz": "a file, or a folder with train.npz and test.npz",
}
IMAGE_DATASETS = ("digits", *PUBLISHED, *ROOTS)
HISTOGRAM_PIXELS = 1 << 24  # pixels counted at once: NumPy's count needs eight bytes per pixel


class ImageBatch(NamedTuple):
    """`B` images on one device."""

    x: Tensor  # (B, C, H, W) float32 in [-1, 1]
    condition: Tensor | None  # (B,) int64 class labels; −1 stands for a hidden label


class ImageDataset:
    """All images of one split on one device.

    Batches are drawn with torch's global generator of the device, whose state is in a checkpoint.

    Args:
        images: (N, C, H, W) uint8, C = 1 or 3.
        labels: (N,) integers from 0 to `len(class_names) - 1`, or None.
        class_names: of the labels.
        flip: mirrors a random half of every batch, left to right.

    Attributes:
        images: as given, on the device.
        labels: (N,) int64 on the device, or None.
        classes: number of classes, 0 without labels.
        shape: (C, H, W).
        mean: of all pixels scaled to [−1, 1], (1, 1, 1) float32 on the device.
        std: of the same pixels: σ_d.

    Raises:
        InputError: for a wrong shape or dtype, or a label out of range.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        class_names: list[str] | None = None,
        *,
        name: str = "custom",
        split: str = "train",
        flip: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        check_images(images)
        self.name, self.split, self.flip = name, split, flip
        self.class_names = list(class_names or []) if labels is not None else []
        self.classes = len(self.class_names)
        if labels is not None:
            checked = checked_labels(name, labels.cpu().numpy(), len(images), self.classes)
            labels = torch.from_numpy(checked).to(device)
        _, channels, height, width = images.shape
        self.shape = (channels, height, width)
        mean, self.std = _mean_and_std(images)
        self.mean = torch.full((1, 1, 1), mean, device=device)
        self.images, self.labels = images.to(device), labels

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Device of the images."""
        return self.images.device

    def sample(self, batch_size: int) -> ImageBatch:
        """Draw `batch_size` images with replacement, without synchronising with the device."""
        index = torch.randint(len(self), (batch_size,), device=self.device)
        images = self.images[index]
        if self.flip:
            mirrored = torch.rand(batch_size, 1, 1, 1, device=self.device) < 0.5
            images = torch.where(mirrored, images.flip(3), images)
        return ImageBatch(from_uint8(images), None if self.labels is None else self.labels[index])


def from_uint8(images: Tensor) -> Tensor:
    """Scale pixels 0 … 255 to float32 in [−1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Invert `from_uint8`, rounding to the nearest pixel value and clamping to the range."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def open_images(
    name: str,
    root: str | Path | None = None,
    split: str = "train",
    *,
    flip: bool | None = None,
    size: int | None = None,
    device: torch.device | str = "cpu",
) -> ImageDataset:
    """Open one split of an image dataset.

    Args:
        name: one of `IMAGE_DATASETS`.
        root: location of the files; None looks in `images_directory()`, then downloads from the
            publisher or from `$CMPOLICY_IMAGES_MIRROR`/<name>/. ``folder`` and ``npz`` require it,
            see `read_folder` and `read_npz`.
        split: ``train`` or ``test``.
        flip: mirrors a random half of every batch; by default as is usual for the dataset.
        size: centre-crops and resizes images to `size` × `size`.

    Raises:
        InputError: for an unknown name, missing or damaged files, or a missing package.
    """
    if name not in IMAGE_DATASETS:
        raise InputError(f"no image dataset {name!r}, expected one of {', '.join(IMAGE_DATASETS)}")
    if split not in SPLITS:
        raise InputError(f"no split {split!r} of {name}, expected {' or '.join(SPLITS)}")
    if size is not None and size < 1:
        raise InputError(f"size is {size}, expected the pixels of a side, at least 1")
    try:
        pictures = _read(name, Path(root).expanduser() if root else None, split, size)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error}") from None
    images = pictures.images
    if size is not None:
        from cmpolicy.images.folder import resized

        images = resized(images, size)
    usual = split == "train" and name in PUBLISHED and PUBLISHED[name].flip
    return ImageDataset(
        torch.from_numpy(images),
        None if pictures.labels is None else torch.from_numpy(pictures.labels),
        pictures.class_names,
        name=name,
        split=split,
        flip=usual if flip is None else flip,
        device=device,
    )


def _read(name: str, root: Path | None, split: str, size: int | None) -> Pictures:
    if name in PUBLISHED:
        return read_published(name, root, split)
    if name == "digits":
        if root is not None:
            raise InputError("digits come with scikit-learn and have no files; leave root out")
        return _digits(split)
    if root is None:
        raise InputError(f"{name} needs root=, {ROOTS[name]}")
    if name == "npz":
        return read_npz(_find_npz(root, split))
    from cmpolicy.images.folder import find_split, read_folder

    return read_folder(find_split(root, split), size)


def _find_npz(root: Path, split: str) -> Path:
    path = root / f"{split}.npz" if root.is_dir() else root
    if not path.is_file():
        raise InputError(f"no file at {path}, expected an .npz of images; check the path")
    if path == root and split != "train":
        raise InputError(
            f"{root} is one file, which is the train split; for a {split} split give a folder "
            "with train.npz and test.npz"
        )
    return path


def _mean_and_std(images: Tensor) -> tuple[float, float]:
    """Compute mean and std of all pixels in [−1, 1] from a histogram, exact on every machine."""
    pixels, counts = images.cpu().numpy().reshape(-1), np.zeros(256, dtype=np.int64)
    for begin in range(0, len(pixels), HISTOGRAM_PIXELS):
        counts += np.bincount(pixels[begin : begin + HISTOGRAM_PIXELS], minlength=256)
    values = np.arange(256) / 127.5 - 1
    mean = float((counts * values).sum() / counts.sum())
    return mean, math.sqrt(float((counts * (values - mean) ** 2).sum() / counts.sum()))


def _digits(split: str) -> Pictures:
    """Load scikit-learn's 1,797 handwritten 8×8 digits; every sixth of a class is a test image."""
    with needs_extra("images"):
        from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    rank = np.zeros(len(labels), dtype=np.int64)  # index of an image within its class
    for digit in range(10):
        rank[labels == digit] = np.arange((labels == digit).sum())
    chosen = (rank % 6 == 0) == (split == "test")
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    return Pictures(images[chosen], labels[chosen], [str(digit) for digit in range(10)])
