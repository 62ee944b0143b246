"""Checks of a stranger's HDF5 file, before anything of it is read into memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py

from cmpolicy.errors import InputError

FREE_BYTES = 64 << 20  # may be declared by any file
LARGEST_COMPRESSION = 1100  # deflate's is 1032


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


def check_declared_size(file: Path, declared: int) -> None:
    """Refuse a file whose arrays are far larger than it, in bytes.

    Raises:
        InputError: says both sizes.
    """
    size = file.stat().st_size
    if declared > max(FREE_BYTES, LARGEST_COMPRESSION * size):
        raise InputError(
            f"{file} declares arrays of {declared / 1e9:.1f} GB in a file of {size / 1e3:.0f} kB; "
            "it is damaged or was never filled"
        )
