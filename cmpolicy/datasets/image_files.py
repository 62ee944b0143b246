"""Pictures and labels in files: what is read is checked, what is written appears whole."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cmpolicy.errors import InputError


class Pictures(NamedTuple):
    """`N` pictures of one size, as they lie in files."""

    images: NDArray[np.uint8]  # (N, C, H, W)
    labels: NDArray[np.int64] | None  # (N,), None where there are none
    class_names: list[str]  # empty without labels


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
        if labels.shape != (len(images),) or labels.is_floating_point():
            raise InputError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)}, expected one integer "
                f"for each of {len(images)} images"
            )
        arrays["arr_1"] = labels.cpu().to(torch.int64).numpy()
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # of `allow_pickle`, which is no array
    _write_whole(Path(path), buffer.getbuffer())


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
    _write_whole(Path(path), buffer.getbuffer())


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


def _write_whole(path: Path, data: memoryview) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
