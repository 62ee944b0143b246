"""Pictures that lie in a folder, a class in each subfolder, brought to one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from cmpolicy.errors import InputError
from cmpolicy.images.files import Pictures

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
DEEP_MODES = ("I", "F")  # 16 bits a pixel and more


def read_folder(folder: Path, size: int | None = None) -> Pictures:
    """Every picture below `folder`, in the order of their paths.

    Each subfolder is a class, numbered in the order of names; without subfolders there are no
    labels. Names that begin with a dot or two underscores are passed over, and so are files that
    are no pictures. Pictures are grey (one channel) only if all are; transparency becomes white.

    Args:
        folder: where they lie.
        size: centre-crop each picture to a square and resize it to `size` × `size`.

    Raises:
        InputError: no pictures, pictures beside subfolders, one that cannot be read, or, without
            `size`, one that differs from the first in size.
    """
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}, expected one with pictures; check the path")
    subfolders = [path for path in visible(folder) if path.is_dir()]
    loose = [path for path in visible(folder) if _is_picture(path)]
    if subfolders and loose:
        raise InputError(
            f"{folder} holds pictures ({loose[0].name}) beside subfolders ({subfolders[0].name}), "
            "expected a subfolder for each class, or none"
        )
    classes = {path.name: list(_pictures_below(path)) for path in subfolders}
    for name, paths in classes.items():
        if not paths:
            raise InputError(f"{folder / name} holds no picture, expected some of its class")
    if not (classes or loose):
        raise InputError(f"{folder} holds no picture, expected {', '.join(sorted(SUFFIXES))}")
    images = _stacked([*loose, *(path for paths in classes.values() for path in paths)], size)
    if not classes:
        return Pictures(images, None, [])
    counts = [len(paths) for paths in classes.values()]
    return Pictures(images, np.repeat(np.arange(len(classes)), counts), list(classes))


def resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Pictures (N, C, H, W), centre-cropped to squares and resized to (N, C, size, size)."""
    if images.shape[2:] == (size, size):
        return images
    grey = images.shape[1] == 1
    pictures = (Image.fromarray(i[0] if grey else i.transpose(1, 2, 0)) for i in images)
    return _channels_first(np.asarray(_square(picture, size)) for picture in pictures)


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, in the order of names, without what is hidden."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__")))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _pictures_below(folder: Path) -> Iterator[Path]:
    for path in visible(folder):
        if path.is_dir():
            yield from _pictures_below(path)
        elif _is_picture(path):
            yield path


def _stacked(paths: list[Path], size: int | None) -> NDArray[np.uint8]:
    arrays: list[NDArray[np.uint8]] = []
    for path in tqdm(paths, desc="pictures", unit="", disable=None, leave=False):
        picture = read_picture(path)
        picture = picture if size is None else _square(picture, size)
        arrays.append(np.asarray(picture))
        if arrays[-1].shape[:2] != arrays[0].shape[:2]:
            (h, w), (height, width) = arrays[-1].shape[:2], arrays[0].shape[:2]
            raise InputError(
                f"{path} is {w} × {h} pixels, expected {width} × {height} as {paths[0]} is; "
                "give size= to crop and resize every picture"
            )
    return _channels_first(arrays)


def _channels_first(arrays: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """(H, W) and (H, W, 3) as (N, C, H, W), in colour if any is."""
    every = list(arrays)
    if any(array.ndim == 3 for array in every):
        every = [
            array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2) for array in every
        ]
        return np.stack([array.transpose(2, 0, 1) for array in every])
    return np.stack(every)[:, None]


def read_picture(path: Path) -> Image.Image:
    """A picture of a file, upright, in mode L or RGB; transparency becomes white.

    Raises:
        InputError: if it is none that can be read.
    """
    try:
        with Image.open(path) as opened:
            picture: Image.Image = ImageOps.exif_transpose(opened)
            if not picture.mode.startswith(DEEP_MODES):
                return _opaque(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is no picture that can be read ({reason})") from None
    raise InputError(
        f"{path} has more than 8 bits a channel (mode {picture.mode}), expected 8; convert it"
    )


def _opaque(picture: Image.Image) -> Image.Image:
    mode = "L" if picture.mode in {"1", "L", "LA"} else "RGB"
    if picture.mode in {"LA", "PA", "RGBA"} or "transparency" in picture.info:
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    return picture.convert(mode)


def _square(picture: Image.Image, size: int) -> Image.Image:
    # cropped first: a resampling filter would reach beyond the box that `ImageOps.fit` resizes
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    cropped = picture.crop((left, top, left + side, top + side))
    return cropped.resize((size, size), Image.Resampling.LANCZOS)
