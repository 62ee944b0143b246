"""Sets small enough to be sent to a GPU: D4RL's layout, in float16."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np

ROUNDED = ("observations", "actions", "rewards")
KEPT = ("terminals", "timeouts")
ATTRIBUTE = "rounded_to"


def pack(data: str | None, folder: str, sets: list[str], limit: float) -> list[Path]:
    """Write the sets of a folder, in this order, up to `limit` megabytes; says what was left out.

    A column is a chunk and its bytes are shuffled, so that gzip takes a quarter off.
    """
    if data is None:
        sys.exit("pack= needs data=DIR, a folder of D4RL-layout files")
    out, written, total = Path(folder), [], 0.0
    out.mkdir(parents=True, exist_ok=True)
    for name in sets:
        path = out / f"{name}.hdf5"
        round_file(Path(data) / path.name, path)
        size = path.stat().st_size / 1e6
        if total + size > limit:
            path.unlink()
            print(f"{name} is left out: {size:.1f} MB more would be over limit={limit:g}")
            continue
        total += size
        written.append(path)
        print(f"{name}: {size:.1f} MB, {total:.1f} in all")
    return written


def round_file(source: Path, path: Path) -> None:
    """One file with its large columns in float16; attributes are kept."""
    if not source.is_file():
        sys.exit(f"there is no {source}")
    with h5py.File(source) as old, h5py.File(path, "w") as new:
        for key in (*ROUNDED, *KEPT):
            values = old[key][()]
            if key in ROUNDED:
                values = values.astype(np.float16)
                if not np.isfinite(values).all():
                    sys.exit(f"{key} of {source} does not fit float16")
            chunks = (len(values), *(1,) * (values.ndim - 1))
            new.create_dataset(key, data=values, chunks=chunks, compression="gzip", shuffle=True)
        new.attrs.update({**old.attrs, ATTRIBUTE: "float16"})


def is_packed(path: Path) -> bool:
    """Whether `pack` wrote a file."""
    with h5py.File(path) as file:
        return ATTRIBUTE in file.attrs
