"""Read CIFAR-10 in its three formats: binary batches, pickled Python batches and PNG sheets."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmpolicy.errors import InputError, needs_extra, one_line
from cmpolicy.images.files import checked_labels

SHAPE = (3, 32, 32)
PIXELS, BYTES = 32 * 32, 3 * 32 * 32
CLASSES = 10

CifarBatch = tuple[NDArray[np.uint8], NDArray[np.int64]]  # (N, C, H, W), (N,)


def read_binary_batch(path: Path) -> CifarBatch:
    """Read a `.bin` file: per image one byte of label, then red, green and blue pixels.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html

    Raises:
        InputError: for a file that is cut short, or a label out of range.
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
    """Read a pickled dictionary of `data` (N, 3072) uint8 and `labels`, a list of N integers.

    The pickle cannot call anything: it may only name NumPy's array, and stand-ins receive that.

    Raises:
        InputError: for any other name, a damaged file, a missing key, or a wrong shape or label.
    """
    try:
        found = _BatchUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except InputError as error:
        raise InputError(f"{path} {error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"{path} is damaged or not a CIFAR-10 batch ({one_line(error)}); download or copy it "
            "again"
        ) from None
    batch = {_text(key): value for key, value in found.items()} if isinstance(found, dict) else {}
    data = getattr(batch.get("data"), "values", None)
    if data is None or data.ndim != 2 or data.shape[1] != BYTES or "labels" not in batch:
        raise InputError(
            f"{path} holds {', '.join(map(str, batch)) or 'no dictionary'}, expected data "
            f"(N, {BYTES}) uint8 and labels, as in CIFAR-10's batches"
        )
    labels = checked_labels(str(path), batch["labels"], len(data), CLASSES)
    return np.ascontiguousarray(data).reshape(-1, *SHAPE), labels


def read_png_sheet(path: Path) -> NDArray[np.uint8]:
    """Read a PNG in which each row of 1024 RGB pixels is an image, as (N, 3, 32, 32).

    Raises:
        InputError: for a damaged file, another width or mode, or a missing Pillow.
    """
    with needs_extra("images"):
        from PIL import Image
    try:
        with Image.open(path, formats=("PNG",)) as sheet:
            mode, width = sheet.mode, sheet.width
            if (mode, width) == ("RGB", PIXELS):
                pixels = np.asarray(sheet).reshape(-1, 32, 32, 3)
                return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} is cut short or not a PNG ({one_line(error)}); download or copy it again"
        ) from None
    raise InputError(f"{path} is {width} pixels wide in mode {mode}, expected {PIXELS} in RGB")


def read_json_labels(path: Path, count: int) -> NDArray[np.int64]:
    """Read the labels of `count` images from a JSON list of integers.

    Raises:
        InputError: for invalid JSON, or a wrong number or value of labels.
    """
    try:
        labels = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is cut short or not JSON ({error})") from None
    return checked_labels(str(path), labels, count, CLASSES)


class _BatchUnpickler(pickle._Unpickler):
    """Resolve only the names of a pickled array, to harmless stand-ins.

    The unpickler in Python: the one in C takes whatever memory a number in the file asks for. So
    does one instruction of this one, which no batch has.
    """

    dispatch = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]
    }

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
                f"asks for {module}.{name}, which no CIFAR-10 batch contains; it was not run. "
                "Get the data from a source you trust"
            )
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise InputError("refers to data outside the file, which no CIFAR-10 batch does")


class _PickledDtype:
    """Stand-in for `numpy.dtype("u1")`."""

    def __init__(self, code: object, *_: object) -> None:
        if _text(code) != "u1":
            raise InputError(f"holds an array of {code!r}, expected bytes (u1)")

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment, which bytes do not have."""


class _PickledArray:
    """Stand-in for a pickled array: created empty, then given its shape and bytes."""

    def __init__(self, *_: object) -> None:
        self.values: NDArray[np.uint8] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, content = state
        if not isinstance(dtype, _PickledDtype):
            raise InputError("holds an array without a dtype")
        array = np.frombuffer(content, np.uint8)
        self.values = array.reshape(shape, order="F" if column_major else "C")


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
