"""The three ways in which CIFAR-10 is handed on: binary batches, Python batches, PNG sheets."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmpolicy.errors import InputError
from cmpolicy.images.files import checked_labels

SHAPE = (3, 32, 32)
PIXELS, BYTES = 32 * 32, 3 * 32 * 32
CLASSES = 10

CifarBatch = tuple[NDArray[np.uint8], NDArray[np.int64]]  # (N, C, H, W), (N,)


def read_binary_batch(path: Path) -> CifarBatch:
    """A `.bin` file: of each image one byte of label, then its red, green and blue pixels.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html

    Raises:
        InputError: cut short, or a label out of range.
    """
    content = np.fromfile(path, np.uint8)
    if not content.size or content.size % (1 + BYTES):
        raise InputError(
            f"{path} holds {content.size} bytes, expected {1 + BYTES} for each image; "
            "download or copy it again"
        )
    rows = content.reshape(-1, 1 + BYTES)
    labels = checked_labels(str(path), rows[:, 0], len(rows), CLASSES)
    return np.ascontiguousarray(rows[:, 1:]).reshape(-1, *SHAPE), labels


def read_python_batch(path: Path) -> CifarBatch:
    """A pickled dictionary of `data` (N, 3072) uint8 and `labels`, a list of N integers.

    The pickle cannot call anything: all it may name is the array that such a file holds, and a
    stand-in receives that.

    Raises:
        InputError: it names anything else, is cut short, lacks a key, or does not fit.
    """
    try:
        found = _BatchUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except InputError as error:
        raise InputError(f"{path} {error}") from None
    except Exception as error:  # a damaged pickle fails in every way there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} is damaged or no batch of CIFAR-10 ({reason}); download or copy it again"
        ) from None
    batch = {_text(key): value for key, value in found.items()} if isinstance(found, dict) else {}
    data = getattr(batch.get("data"), "values", None)
    if data is None or data.ndim != 2 or data.shape[1] != BYTES or "labels" not in batch:
        raise InputError(
            f"{path} holds {', '.join(map(str, batch)) or 'no dictionary'}, expected data "
            f"(N, {BYTES}) uint8 and labels, as CIFAR-10's batches have"
        )
    labels = checked_labels(str(path), batch["labels"], len(data), CLASSES)
    return np.ascontiguousarray(data).reshape(-1, *SHAPE), labels


def read_png_sheet(path: Path) -> NDArray[np.uint8]:
    """A sheet whose every row is an image: 1024 RGB pixels, line after line. (N, 3, 32, 32).

    Raises:
        InputError: no picture, or of another width or mode.
    """
    try:
        with Image.open(path) as sheet:
            mode, width = sheet.mode, sheet.width
            if (mode, width) == ("RGB", PIXELS):
                pixels = np.asarray(sheet).reshape(-1, 32, 32, 3)
                return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} is cut short or no picture ({reason}); download or copy it again"
        ) from None
    raise InputError(f"{path} is {width} pixels wide in mode {mode}, expected {PIXELS} in RGB")


def read_json_labels(path: Path, count: int) -> NDArray[np.int64]:
    """The labels of `count` images, a JSON list of integers.

    Raises:
        InputError: no JSON, another number of them, or one out of range.
    """
    try:
        labels = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is cut short or no JSON ({error})") from None
    return checked_labels(str(path), labels, count, CLASSES)


class _BatchUnpickler(pickle.Unpickler):
    """Knows three names, those of a pickled array, and gives stand-ins of ours for them."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "numpy.core.multiarray._reconstruct": _PickledArray,
            "numpy._core.multiarray._reconstruct": _PickledArray,  # written by NumPy 2
            "numpy.ndarray": _PickledArray,
            "numpy.dtype": _PickledDtype,
        }
        found = known.get(f"{module}.{name}")
        if found is None:
            raise InputError(
                f"asks for {module}.{name}, which no batch of CIFAR-10 holds; it was not run. "
                "Get the data from a source you trust"
            )
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise InputError("refers to something outside the file, which no batch of CIFAR-10 does")


class _PickledDtype:
    """What `numpy.dtype("u1")` is pickled as."""

    def __init__(self, code: object, *_: object) -> None:
        if _text(code) != "u1":
            raise InputError(f"holds an array of {code!r}, expected bytes (u1)")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, of which a byte has none."""


class _PickledArray:
    """What an array is pickled as: created empty, then given its shape and its bytes."""

    def __init__(self, *_: object) -> None:
        self.values: NDArray[np.uint8] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, content = state
        if not isinstance(dtype, _PickledDtype):
            raise InputError("holds an array without a type")
        array = np.frombuffer(content, np.uint8)
        self.values = array.reshape(shape, order="F" if column_major else "C")


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
