"""D4RL's HDF5 layout: flat arrays of consecutive steps, one row a step."""

from __future__ import annotations

import dataclasses
import logging
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cmpolicy.datasets.transitions import DatasetInfo, TransitionDataset
from cmpolicy.errors import InputError

logger = logging.getLogger(__name__)

REQUIRED_KEYS = ("observations", "actions", "rewards", "terminals")
OPTIONAL_KEYS = ("timeouts", "next_observations")


def load_hdf5(
    path: str | PathLike[str],
    *,
    max_episode_steps: int | None = None,
    info: DatasetInfo | None = None,
) -> TransitionDataset:
    """Transitions of a D4RL HDF5 file; see `TransitionDataset.from_arrays` for what is dropped.

    Reads `observations` (N, obs_dim), `actions` (N, action_dim), `rewards` and `terminals` (N,),
    and where they are there `timeouts` (N,) and `next_observations` (N, obs_dim). Everything
    else, such as the groups `infos/` and `metadata/`, is left alone. The attribute `env_id`, if
    recorded, becomes that of `info`.

    Args:
        path: the file.
        max_episode_steps: for a file without `timeouts`, the length at which episodes were cut;
            by default that of the recorded `env_id`, as D4RL takes its environment's.
        info: what is known of the origin; by default the file's own name, as source `file`.

    Raises:
        InputError: no such file, not HDF5, cut short, a key missing, or arrays that do not fit.
    """
    file = Path(path).expanduser()
    arrays, env_id = _read(file)
    info = info or DatasetInfo(dataset_id=file.stem, source="file")
    info = dataclasses.replace(info, path=str(file), env_id=env_id or info.env_id)
    if "timeouts" not in arrays and max_episode_steps is None:
        max_episode_steps = _time_limit(file, info.env_id)
    try:
        return TransitionDataset.from_arrays(
            **arrays, max_episode_steps=max_episode_steps, info=info
        )
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _read(file: Path) -> tuple[dict[str, NDArray[Any]], str | None]:
    if not file.is_file():
        raise InputError(f"no file at {file}, expected a D4RL HDF5 file; check the path")
    if not h5py.is_hdf5(file):
        raise InputError(f"{file} is not an HDF5 file; expected D4RL's layout, download it again")
    try:
        with h5py.File(file, "r") as opened:
            return _arrays(file, opened), _text(opened.attrs.get("env_id"))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{file} is cut short or damaged ({reason}); download or copy it again"
        ) from None


def _arrays(file: Path, opened: h5py.File) -> dict[str, NDArray[Any]]:
    missing = [key for key in REQUIRED_KEYS if not isinstance(opened.get(key), h5py.Dataset)]
    if missing:
        raise InputError(
            f"{file} has no {', '.join(missing)}, expected {', '.join(REQUIRED_KEYS)}; "
            f"it holds {', '.join(sorted(opened)[:8]) or 'nothing'}"
        )
    return {
        key: np.asarray(opened[key][()])
        for key in (*REQUIRED_KEYS, *OPTIONAL_KEYS)
        if isinstance(opened.get(key), h5py.Dataset)
    }


def _time_limit(file: Path, env_id: str | None) -> int | None:
    from gymnasium.envs.registration import registry

    if env_id in registry:
        return registry[env_id].max_episode_steps
    logger.warning(
        "%s has no timeouts: every row is taken to follow the one before it unless that was "
        "terminal; give max_episode_steps where episodes were cut",
        file,
    )
    return None


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else None if value is None else str(value)
