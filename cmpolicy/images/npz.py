"""Read arrays of .npz files of strangers: no pickles, and no more memory than a file can fill."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cmpolicy.declared_size import check_declared_size
from cmpolicy.errors import InputError, one_line

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes


def read_npz_arrays(
    path: Path, wanted: Collection[str]
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Read the wanted arrays that the file has; list all its keys.

    Raises:
        InputError: if the file is missing, damaged, encrypted, or declares more than it can hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                member.filename.removesuffix(".npy"): member for member in archive.infolist()
            }
            found = {}
            for key in members.keys() & set(wanted):
                if members[key].compress_type not in METHODS:
                    raise ValueError(f"{key} is not compressed as NumPy does it")
                with archive.open(members[key]) as content:
                    found[key] = _read_array(path, content)
            return found, list(members)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"there is no file {path}, expected an .npz file") from None
    except Exception as error:  # a damaged header can make NumPy's parser raise anything
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path} is not an .npz file, or cut short; copy it again") from None
        raise InputError(
            f"{path} is damaged or does not hold arrays ({one_line(error)}); copy it again"
        ) from None


def _read_array(path: Path, content: IO[bytes]) -> NDArray[Any]:
    """Read one array, whose declared size is held against the file's before memory is taken."""
    version = npy.read_magic(content)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(content)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    check_declared_size(path, math.prod(shape) * dtype.itemsize)
    content.seek(0)
    return np.asarray(npy.read_array(content, allow_pickle=False))
