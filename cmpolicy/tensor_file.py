"""Tensors and text in one safetensors file, with a checksum of the whole file in its header."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cmpolicy.atomic_file import write_atomically
from cmpolicy.errors import InputError

_KEY = b'"sha256":"'  # cannot stand inside a JSON string, where its quotes would be escaped
_BLANK = "0" * 64  # in place of the checksum while it is computed


def write_tensors(
    path: Path,
    file_format: str,
    tensors: dict[str, Tensor],
    text: Mapping[str, str],
    keep: Path | None = None,
) -> None:
    """Write the file whole or not at all; the one before it moves to `keep`, if given."""
    metadata = {**text, "format": file_format, "sha256": _BLANK}
    data = bytearray(safetensors.torch.save(tensors, metadata))
    begin = data.index(_KEY) + len(_KEY)
    data[begin : begin + len(_BLANK)] = hashlib.sha256(data).hexdigest().encode()
    write_atomically(path, memoryview(data), keep)


def read_tensors(
    path: Path, file_formats: str | tuple[str, ...], device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the text of a file of one of these formats. Nothing in it is executed.

    Raises:
        FileNotFoundError: if there is no file.
        InputError: if it is damaged, or of another format or version.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            formats = (file_formats,) if isinstance(file_formats, str) else file_formats
            if metadata.get("format") not in formats:
                found = metadata.get("format", "unknown")
                raise InputError(f"{path} has format {found[:50]}, expected {formats[0]}")
            if _checksum(path) != metadata.get("sha256"):
                raise InputError(f"{path} is damaged: its checksum is wrong")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def _checksum(path: Path) -> str:
    """SHA-256 of a file in whose header the checksum is blank."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = 8 + int.from_bytes(data[:8], "little")
        begin = data.find(_KEY, 0, header) + len(_KEY)
        with memoryview(data) as view:
            digest = hashlib.sha256(view[:begin])
            digest.update(_BLANK.encode())
            digest.update(view[begin + len(_BLANK) :])
        return digest.hexdigest()
