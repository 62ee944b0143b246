"""Read image files from a folder with one subfolder per class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cmpolicy.errors import InputError, needs_extra, one_line
from cmpolicy.images.files import Pictures

with needs_extra("images"):
    from PIL import Image, ImageOps

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")  # those of SUFFIXES, no others
DEEP_MODES = ("I", "F")  # 16 bits a pixel and more


def find_split(root: Path, split: str) -> Path:
    """Find the folder of a split: `root/train` if `root` holds only splits, else `root` itself.

    Raises:
        InputError: if `root` has no such split.
    """
    below = {path.name for path in _visible(root) if path.is_dir()} if root.is_dir() else set()
    if split in below and below <= {"train", "test", "val", "valid", "validation"}:
        return root / split
    if split != "train":
        raise InputError(
            f"{root} has no {split} split; expected only the folders train and test below it, or "
            "use split=train for all of it"
        )
    return root


def read_folder(folder: Path, size: int | None = None) -> Pictures:
    """Read every image below `folder`, in the order of their paths.

    Each subfolder is a class, numbered in alphabetical order; without subfolders there are no
    labels. Other files and names that begin with a dot or two underscores are ignored. Images are
    grey (one channel) only if all are; transparency becomes white.

    Args:
        size: centre-crops images to squares and resizes them to `size` × `size`.

    Raises:
        InputError: if there are no images, images next to subfolders, an unreadable image, or,
            without `size`, images of different sizes.
    """
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}, expected one with images; check the path")
    subfolders = [path for path in _visible(folder) if path.is_dir()]
    loose = [path for path in _visible(folder) if _is_image(path)]
    if subfolders and loose:
        raise InputError(
            f"{folder} holds images ({loose[0].name}) next to subfolders ({subfolders[0].name}), "
            "expected either a subfolder per class or no subfolders"
        )
    classes = {path.name: list(_images_below(path)) for path in subfolders}
    for name, paths in classes.items():
        if not paths:
            raise InputError(f"{folder / name} holds no image, expected images of this class")
    if not (classes or loose):
        raise InputError(f"{folder} holds no image, expected {', '.join(sorted(SUFFIXES))}")
    images = _read_all([*loose, *(path for paths in classes.values() for path in paths)], size)
    if not classes:
        return Pictures(images, None, [])
    counts = [len(paths) for paths in classes.values()]
    return Pictures(images, np.repeat(np.arange(len(classes)), counts), list(classes))


def resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Centre-crop images (N, C, H, W) to squares and resize them to (N, C, size, size)."""
    if images.shape[2:] == (size, size):
        return images
    grey = images.shape[1] == 1
    pictures = (Image.fromarray(i[0] if grey else i.transpose(1, 2, 0)) for i in images)
    return _stack(np.asarray(_square(picture, size)) for picture in pictures)


def read_picture(path: Path) -> Image.Image:
    """Read an image file, upright, in mode L or RGB; transparency becomes white.

    Raises:
        InputError: if it cannot be read or has more than 8 bits per channel.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            picture: Image.Image = ImageOps.exif_transpose(opened)
            if not picture.mode.startswith(DEEP_MODES):
                return _opaque(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image ({one_line(error)})") from None
    raise InputError(
        f"{path} has more than 8 bits per channel (mode {picture.mode}), expected 8; convert it"
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__")))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _images_below(folder: Path) -> Iterator[Path]:
    for path in _visible(folder):
        if path.is_dir():
            yield from _images_below(path)
        elif _is_image(path):
            yield path


def _read_all(paths: list[Path], size: int | None) -> NDArray[np.uint8]:
    arrays: list[NDArray[np.uint8]] = []
    for path in tqdm(paths, desc="images", unit="", disable=None, leave=False):
        picture = read_picture(path)
        picture = picture if size is None else _square(picture, size)
        arrays.append(np.asarray(picture))
        if arrays[-1].shape[:2] != arrays[0].shape[:2]:
            (h, w), (height, width) = arrays[-1].shape[:2], arrays[0].shape[:2]
            raise InputError(
                f"{path} is {w} × {h} pixels, expected {width} × {height} like {paths[0]}; "
                "give size= to crop and resize all images"
            )
    return _stack(arrays)


def _stack(arrays: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Stack (H, W) and (H, W, 3) as (N, C, H, W), in colour if any image is."""
    every = list(arrays)
    if any(array.ndim == 3 for array in every):
        every = [a if a.ndim == 3 else np.repeat(a[..., None], 3, axis=2) for a in every]
        return np.stack([array.transpose(2, 0, 1) for array in every])
    return np.stack(every)[:, None]


def _opaque(picture: Image.Image) -> Image.Image:
    mode = "L" if picture.mode in {"1", "L", "LA"} else "RGB"
    if picture.mode in {"LA", "PA", "RGBA"} or "transparency" in picture.info:
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    return picture.convert(mode)


def _square(picture: Image.Image, size: int) -> Image.Image:
    # Cropped first: `ImageOps.fit` lets the resampling filter reach beyond the crop.
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    cropped = picture.crop((left, top, left + side, top + side))
    return cropped.resize((size, size), Image.Resampling.LANCZOS)
