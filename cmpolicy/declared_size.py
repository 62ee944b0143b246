"""How large what a file declares may be, held against the size of the file."""

from __future__ import annotations

from pathlib import Path

from cmpolicy.errors import InputError

FREE_BYTES = 64 << 20  # may be declared by any file
LARGEST_COMPRESSION = 1100  # deflate's is 1032


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
