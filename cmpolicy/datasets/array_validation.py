"""Validation of untrusted arrays and their cast to float32; of HDF5 before anything is read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cmpolicy.array_types import BoolArray, FloatArray
from cmpolicy.declared_size import check_declared_size
from cmpolicy.errors import InputError

logger = logging.getLogger(__name__)

FEWEST_STEPS = 256  # of float32 that the range of an entry should have


def checked_matrix(name: str, values: Any) -> FloatArray:
    """Cast to a C-contiguous float32 array of shape (N, d), every entry finite.

    A column that float32 makes constant or coarse is named in a warning.

    Raises:
        InputError: not numbers, not two-dimensional, empty, or NaN/inf (the first bad row named).
    """
    array = _numbers(name, values)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"{name} has shape {array.shape}, expected (steps, size) with at least one of each; "
            "flatten each step to a vector"
        )
    single = _finite(name, array)
    _warn_of_rounding(name, array, single)
    return single


def checked_vector(name: str, values: Any) -> FloatArray:
    """Cast to a float32 array of shape (N,), every entry finite; (N, 1) is taken as (N,).

    Raises:
        InputError: not numbers, not one-dimensional, or NaN/inf (the first bad row named).
    """
    return _finite(name, _column(name, _numbers(name, values)))


def checked_flags(name: str, values: Any) -> BoolArray:
    """Cast to a bool array of shape (N,); numbers must be 0 or 1; (N, 1) is taken as (N,).

    Raises:
        InputError: another shape, or an entry that is neither 0 nor 1 (the first bad row named).
    """
    array = _column(name, _numbers(name, values))
    if array.dtype != np.bool_:
        wrong = ~((array == 0) | (array == 1))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(f"{name}[{row}] is {array[row]}, expected 0 or 1 for every step")
    return array.astype(np.bool_)


def check_equal_lengths(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse arrays of one file that do not hold the same number of steps.

    Raises:
        InputError: the lengths differ; every length is said.
    """
    if len({len(array) for array in arrays.values()}) > 1:
        said = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise InputError(f"the arrays differ in length ({said}), expected one row a step in each")


def _numbers(name: str, values: Any) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(f"{name} is ragged, expected one array of equal rows") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} has dtype {array.dtype}, expected numbers (float, int or bool)")
    return array


def _column(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim == 2 and array.shape[1] == 1:  # some of D4RL's files store columns
        array = array[:, 0]
    if array.ndim != 1 or len(array) == 0:
        raise InputError(
            f"{name} has shape {array.shape}, expected (steps,): one number a step, at least one"
        )
    return array


def _finite(name: str, array: NDArray[Any]) -> FloatArray:
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, refused below
        single = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(single).all():
        bad: BoolArray = np.asarray(~np.isfinite(single).reshape(len(single), -1).all(axis=1))
        row = int(np.argmax(bad))
        raise InputError(
            f"{name}[{row}] holds NaN or inf (as {int(bad.sum())} of {len(bad)} rows do), "
            "expected finite numbers; drop the broken episodes or record them again"
        )
    return single


def _warn_of_rounding(name: str, array: NDArray[Any], single: FloatArray) -> None:
    """Name columns whose values lie so close together that float32 hardly tells them apart."""
    if array.dtype.itemsize < 4 or array.dtype == np.float32:
        return
    low, high = array.min(0).astype(np.float64), array.max(0).astype(np.float64)
    step = np.finfo(np.float32).eps * np.maximum(np.abs(low), np.abs(high))
    lost = single.max(0) == single.min(0)
    for column in np.flatnonzero((high > low) & ((high - low < FEWEST_STEPS * step) | lost)):
        logger.warning(
            "%s[:, %d] lies between %.9g and %.9g, which float32 hardly tells apart; subtract an "
            "offset or choose another unit when recording",
            *(name, column, low[column], high[column]),
        )


def is_own(group: h5py.Group, key: str) -> bool:
    """Tell whether a group has a key; links are refused before anything follows them.

    Raises:
        InputError: the key is a link to another file, or a soft one.
    """
    links = group.id.links
    if not links.exists(key.encode()):
        return False
    if links.get_info(key.encode()).type != h5py.h5l.TYPE_HARD:
        raise InputError(
            f"{group.file.filename}: {group.name.rstrip('/')}/{key} is a link, expected data in "
            "the file itself; copy them into it"
        )
    return True


def is_own_dataset(group: h5py.Group, key: str) -> bool:
    """Tell whether `group[key]` is an array; False where there is no such key.

    Raises:
        InputError: if it lies in another file: a link out of the file, or external storage.
    """
    if not is_own(group, key):
        return False
    found = group[key]
    if not isinstance(found, h5py.Dataset):
        return False
    if found.external or found.is_virtual:
        raise InputError(
            f"{group.file.filename}: {found.name} takes its values from other files, expected an "
            "array in the file itself; copy them into it"
        )
    return True


def check_hdf5(file: Path, columns: Mapping[str, h5py.Dataset]) -> None:
    """Refuse arrays of unequal lengths, or far larger than what the file can hold.

    Raises:
        InputError: says the lengths, or the size that is declared.
    """
    shapes = {key: column.shape for key, column in columns.items()}
    if len({shape[:1] for shape in shapes.values()}) > 1:
        said = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
        raise InputError(f"{file}: the arrays differ in length: {said}")
    check_declared_size(file, sum(column.nbytes for column in columns.values()))
