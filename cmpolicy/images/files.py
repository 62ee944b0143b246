"""Read and write images and labels in IDX, .npz and PNG files; validate what is read."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmpolicy.atomic_file import write_atomically
from cmpolicy.declared_size import check_declared_size
from cmpolicy.errors import InputError, needs_extra
from cmpolicy.images.npz import read_npz_arrays

IDX_UINT8 = 0x08  # the type byte of the magic number
MAX_IDX_AXES = 8  # more than images have
MAX_NPZ_CLASSES = 1 << 16  # larger integers are not class labels


class Pictures(NamedTuple):
    """`N` images of one size, as read from files."""

    images: NDArray[np.uint8]  # (N, C, H, W)
    labels: NDArray[np.int64] | None  # (N,)
    class_names: list[str]  # empty without labels


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read the array of a uint8 IDX file, plain or gzip'd (LeCun et al., the MNIST database).

    Raises:
        InputError: for another format or dtype, or a length other than the header's.
    """
    with path.open("rb") as file:
        begin = file.read(2)
        file.seek(0)
        try:
            packed = begin == b"\x1f\x8b"
            return _read_idx(path, cast("IO[bytes]", gzip.open(file)) if packed else file)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(
                f"{path} is cut short or damaged ({error}); download or copy it again"
            ) from None


def _read_idx(path: Path, content: IO[bytes]) -> NDArray[np.uint8]:
    magic = content.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= MAX_IDX_AXES:
        raise InputError(f"{path} is not an IDX file; it begins with {magic.hex() or '-'}")
    if magic[2] != IDX_UINT8:
        raise InputError(f"{path} holds type 0x{magic[2]:02x}, expected bytes (0x08)")
    header = struct.Struct(f">{magic[3]}I")
    sizes = content.read(header.size)
    if len(sizes) < header.size:
        raise InputError(f"{path} is cut short within its header; download or copy it again")
    shape = header.unpack(sizes)
    declared = math.prod(shape)
    check_declared_size(path, declared)
    data = content.read(declared + 1)
    if len(data) != declared:
        held = f"{len(data)} bytes" if len(data) < declared else "more bytes"
        raise InputError(
            f"{path} holds {held} of data, expected "
            f"{' × '.join(map(str, shape))} as its header says; download or copy it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape).copy()  # writable


def read_npz(path: Path) -> Pictures:
    """Read images in the format of OpenAI's consistency models.

    `arr_0` is uint8 (N, H, W, C), or (N, H, W) for one channel; the optional `arr_1` holds N class
    labels. Pickled data is not read.

    Raises:
        InputError: for a damaged file, a missing `arr_0`, or a wrong shape, dtype or label.
    """
    arrays, keys = read_npz_arrays(path, ("arr_0", "arr_1"))
    if "arr_0" not in arrays:
        raise InputError(
            f"{path} has no arr_0, expected uint8 images (N, H, W, C) under that key; it holds "
            f"{', '.join(sorted(keys)) or 'nothing'}"
        )
    images = arrays["arr_0"]
    images = images[..., None] if images.ndim == 3 else images
    fits = images.ndim == 4 and images.shape[3] in {1, 3} and images.size > 0
    if images.dtype != np.uint8 or not fits:
        raise InputError(
            f"{path}: arr_0 is {images.dtype} of shape {images.shape}, expected uint8 "
            "(N, H, W, C) with C = 1 or 3 and N at least 1"
        )
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if "arr_1" not in arrays:
        return Pictures(images, None, [])
    labels = checked_labels(f"{path}: arr_1", arrays["arr_1"], len(images), MAX_NPZ_CLASSES)
    return Pictures(images, labels, [str(label) for label in range(int(labels.max()) + 1)])


def checked_labels(source: str, labels: Any, count: int, classes: int) -> NDArray[np.int64]:
    """Validate class labels and cast them to (count,) int64.

    Raises:
        InputError: for a wrong shape or dtype, or a label outside 0 … `classes` − 1.
    """
    try:  # lists in lists may, unpickled, stand for more numbers than there is memory for
        parts = labels if isinstance(labels, list | tuple) else ()
        nested = any(isinstance(x, list | tuple) for x in parts)
        array = np.empty(0) if nested else np.asarray(labels)
    except (ValueError, OverflowError):
        nested = True
    if nested:
        raise InputError(f"{source}: the labels are ragged, expected one integer each")
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise InputError(
            f"{source}: the labels are {array.dtype} of shape {array.shape}, expected one integer "
            f"for each of {count} images"
        )
    wrong = (array < 0) | (array >= classes)
    if wrong.any():
        first = int(wrong.argmax())
        raise InputError(
            f"{source}: label {first} is {array[first]}, expected 0 to {classes - 1}; check that "
            "the labels belong to these images"
        )
    return array.astype(np.int64)


def write_npz(path: str | Path, images: Tensor, labels: Tensor | None = None) -> None:
    """Write images (N, C, H, W) uint8 and labels (N,) in the format of `read_npz`, atomically.

    Raises:
        InputError: for a wrong shape or dtype.
    """
    check_images(images)
    arrays = {"arr_0": images.cpu().permute(0, 2, 3, 1).contiguous().numpy()}
    if labels is not None:
        values = labels.cpu().numpy()
        arrays["arr_1"] = checked_labels(str(path), values, len(images), MAX_NPZ_CLASSES)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # of `allow_pickle`, which is no array
    write_atomically(Path(path), buffer.getbuffer())


def image_grid(
    images: Tensor, columns: int | None = None, *, scale: int = 1, gap: int = 2
) -> Tensor:
    """Arrange images in rows on a white sheet.

    Args:
        images: (N, C, H, W) uint8, C = 1 or 3.
        columns: images per row; by default the sheet is about square.
        scale: factor by which images are enlarged.
        gap: white pixels around each image.

    Returns:
        (C, height, width) uint8 on the CPU.

    Raises:
        InputError: for a wrong shape or dtype, or numbers out of range.
    """
    check_images(images)
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    if min(columns, scale) < 1 or gap < 0:
        raise InputError(
            f"a grid of {columns} columns, scale {scale}, gap {gap}; expected at least 1, 1 and 0"
        )
    pictures = images.cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    n, channels, height, width = pictures.shape
    columns, rows = min(columns, n), math.ceil(n / columns)
    cell = (height + gap, width + gap)
    sheet = torch.full((channels, rows * cell[0] + gap, columns * cell[1] + gap), 255).byte()
    for i, picture in enumerate(pictures):
        top, left = gap + i // columns * cell[0], gap + i % columns * cell[1]
        sheet[:, top : top + height, left : left + width] = picture
    return sheet


def write_grid(
    path: str | Path, images: Tensor, columns: int | None = None, *, scale: int = 1, gap: int = 2
) -> None:
    """Write an `image_grid` as a PNG, atomically.

    Raises:
        InputError: as `image_grid`, or if Pillow is not installed.
    """
    with needs_extra("images"):
        from PIL import Image
    sheet = image_grid(images, columns, scale=scale, gap=gap).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet).save(buffer, "PNG")
    write_atomically(Path(path), buffer.getbuffer())


def check_images(images: Tensor) -> None:
    """Check for uint8 images (N, C, H, W) with 1 or 3 channels and N ≥ 1.

    Raises:
        InputError: for another shape or dtype.
    """
    shape = tuple(images.shape)
    if images.dtype != torch.uint8 or images.ndim != 4 or shape[1] not in {1, 3} or 0 in shape:
        raise InputError(
            f"images are {images.dtype} of shape {shape}, expected uint8 (N, C, H, W) with "
            "C = 1 or 3 and N at least 1"
        )
