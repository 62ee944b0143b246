"""D4RL's HDF5 layout: flat arrays of consecutive steps, one row a step."""

from __future__ import annotations

import dataclasses
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cmpolicy.datasets.array_validation import check_hdf5, is_own, is_own_dataset
from cmpolicy.datasets.time_limit import time_limit
from cmpolicy.datasets.transitions import DatasetInfo, TransitionDataset
from cmpolicy.errors import InputError

REQUIRED_KEYS = ("observations", "actions", "rewards", "terminals")
OPTIONAL_KEYS = ("timeouts", "next_observations")


def load_hdf5(
    path: str | PathLike[str],
    *,
    max_episode_steps: int | None = None,
    registered_limit: int | None = None,
    info: DatasetInfo | None = None,
) -> TransitionDataset:
    """Read the transitions of a D4RL HDF5 file; see `TransitionDataset.from_arrays` for the rule.

    Reads `observations` (N, obs_dim), `actions` (N, action_dim), `rewards` and `terminals` (N,),
    and where they are there `timeouts` (N,) and `next_observations` (N, obs_dim). Everything
    else, such as the groups `infos/` and `metadata/`, is left alone. The attribute `env_id`, if
    recorded, becomes that of `info`.

    Args:
        path: the file.
        max_episode_steps, registered_limit: where episodes were cut, see `time_limit`.
        info: what is known of the origin; by default the file's own name, as source `file`.

    Raises:
        InputError: no such file, not HDF5, cut short, a key missing, or arrays that do not fit.
    """
    file = Path(path).expanduser()
    arrays, env_id = _read(file)
    info = info or DatasetInfo(dataset_id=file.stem, source="file")
    info = dataclasses.replace(info, path=str(file), env_id=env_id or info.env_id)
    limit = time_limit(str(file), arrays, max_episode_steps, registered_limit, info.env_id)
    try:
        return TransitionDataset.from_arrays(**arrays, max_episode_steps=limit, info=info)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _read(file: Path) -> tuple[dict[str, NDArray[Any]], str | None]:
    if not file.is_file():
        raise InputError(f"no file at {file}, expected a D4RL HDF5 file; check the path")
    if zipfile.is_zipfile(file):
        raise InputError(
            f"{file} is an .npz or .zip file, expected HDF5 in D4RL's layout; write its arrays to "
            "one with h5py, under the same names"
        )
    if not h5py.is_hdf5(file):
        raise InputError(f"{file} is not an HDF5 file; expected D4RL's layout, download it again")
    try:
        with h5py.File(file, "r") as opened:
            return _arrays(file, opened), _text(opened.attrs.get("env_id"))
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        if "unable to lock file" in reason:
            raise InputError(
                f"{file} is open for writing in another process; close it there first"
            ) from None
        raise InputError(
            f"{file} is cut short or damaged ({reason}); download or copy it again"
        ) from None


def _arrays(file: Path, opened: h5py.File) -> dict[str, NDArray[Any]]:
    for key in REQUIRED_KEYS:
        if is_own(opened, key) and isinstance(opened[key], h5py.Group):
            raise InputError(
                f"{file}: {key} is a group of {', '.join(map(str, opened[key]))}, expected one "
                "array; concatenate them, or record with Minari, which knows dictionaries"
            )
    missing = [key for key in REQUIRED_KEYS if not is_own_dataset(opened, key)]
    if missing:
        raise InputError(
            f"{file} has no {', '.join(missing)}, expected {', '.join(REQUIRED_KEYS)}; "
            f"it holds {', '.join(sorted(map(str, opened))[:8]) or 'nothing'}"
        )
    optional = [key for key in OPTIONAL_KEYS if is_own_dataset(opened, key)]
    columns = {key: opened[key] for key in (*REQUIRED_KEYS, *optional)}
    check_hdf5(file, columns)
    return {key: np.asarray(column[()]) for key, column in columns.items()}


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else None if value is None else str(value)
