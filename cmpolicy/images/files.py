"""Pictures and labels in files: what is read is checked, what is written appears whole."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cmpolicy.atomic_file import write_atomically
from cmpolicy.errors import InputError

IDX_UINT8 = 0x08  # the type byte of the magic number
MAX_NPZ_CLASSES = 1 << 16  # more than that are not labels


class Pictures(NamedTuple):
    """`N` pictures of one size, as they lie in files."""

    images: NDArray[np.uint8]  # (N, C, H, W)
    labels: NDArray[np.int64] | None  # (N,), None where there are none
    class_names: list[str]  # empty without labels


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of an IDX file of bytes, plain or gzip'd (LeCun et al., the MNIST database).

    Raises:
        InputError: not IDX, not bytes, or not as long as its header says.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(
                f"{path} is cut short or damaged ({error}); download or copy it again"
            ) from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[3] == 0:
        raise InputError(f"{path} is not an IDX file; it begins with {content[:4].hex() or '-'}")
    if content[2] != IDX_UINT8:
        raise InputError(f"{path} holds type 0x{content[2]:02x}, expected bytes (0x08)")
    header = struct.Struct(f">4x{content[3]}I")
    if len(content) < header.size:
        raise InputError(f"{path} is cut short within its header; download or copy it again")
    shape, begin = header.unpack_from(content), header.size
    if len(content) - begin != math.prod(shape):
        raise InputError(
            f"{path} holds {len(content) - begin} bytes of data, expected "
            f"{' × '.join(map(str, shape))} as its header says; download or copy it again"
        )
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape).copy()  # writable


def read_npz(path: Path) -> Pictures:
    """Pictures as OpenAI's consistency models write them.

    `arr_0` is uint8 (N, H, W, C), or (N, H, W) for one channel; `arr_1`, where it is there, holds
    N class labels. Nothing pickled is read.

    Raises:
        InputError: not an .npz, damaged, no `arr_0`, another shape or dtype, a wrong label.
    """
    arrays = _npz_arrays(path)
    if "arr_0" not in arrays:
        raise InputError(
            f"{path} has no arr_0, expected uint8 pictures (N, H, W, C) under that key; it holds "
            f"{', '.join(sorted(arrays)) or 'nothing'}"
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


def _npz_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(f"{path} is not an .npz file, or cut short; copy it again")
            file.seek(0)
            with np.load(file, allow_pickle=False) as opened:
                keys = [key for key in opened.files if key in {"arr_0", "arr_1"}]
                others = dict.fromkeys(opened.files, np.empty(0))
                return others | {key: np.asarray(opened[key]) for key in keys}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is damaged or no file of arrays ({reason})") from None


def checked_labels(source: str, labels: Any, count: int, classes: int) -> NDArray[np.int64]:
    """`labels` as (count,) int64, each from 0 to `classes - 1`.

    Raises:
        InputError: another shape or dtype, or a label out of range (the first one named).
    """
    try:
        array = np.asarray(labels)
    except ValueError:
        raise InputError(f"{source}: the labels are ragged, expected one integer each") from None
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
    """Write pictures as OpenAI's consistency models do: `arr_0` NHWC, `arr_1` labels.

    Args:
        path: the file, which appears under its name only when it is whole.
        images: (N, C, H, W) uint8.
        labels: (N,) integers, optional.

    Raises:
        InputError: another shape or dtype.
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
    """Pictures side by side, row after row, on white.

    Args:
        images: (N, C, H, W) uint8, C = 1 or 3.
        columns: pictures in a row; by default as many as make the sheet about square.
        scale: each pixel becomes `scale` × `scale` pixels.
        gap: white pixels around each picture.

    Returns:
        (C, height, width) uint8 on the CPU.

    Raises:
        InputError: no pictures, another shape or dtype, or no columns.
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
    """Write `image_grid` as a PNG, which appears under its name only when it is whole.

    Raises:
        InputError: as `image_grid`.
    """
    sheet = image_grid(images, columns, scale=scale, gap=gap).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet).save(buffer, "PNG")
    write_atomically(Path(path), buffer.getbuffer())


def check_images(images: Tensor) -> None:
    """Refuse what is not uint8 (N, C, H, W) with 1 or 3 channels and at least one picture.

    Raises:
        InputError: another shape or dtype.
    """
    shape = tuple(images.shape)
    if images.dtype != torch.uint8 or images.ndim != 4 or shape[1] not in {1, 3} or 0 in shape:
        raise InputError(
            f"images are {images.dtype} of shape {shape}, expected uint8 (N, C, H, W) with "
            "C = 1 or 3 and N at least 1"
        )
