"""RunRecord episodes on disk, in both layouts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.spaces import Box

Arrays = dict[str, npt.NDArray[Any]]

OBS_DIM, ACTION_DIM = 4, 2


@pytest.fixture
def recorded() -> Arrays:
    """Sixty steps: long and short episodes, terminals and timeouts, episodes of a single step."""
    rng = np.random.default_rng(0)
    last = np.cumsum([7, 12, 1, 9, 1, 15, 10, 5]) - 1
    ended = np.array([True, False, True, True, False, False, True, False])
    steps = int(last[-1]) + 1
    terminals, timeouts = np.zeros(steps, bool), np.zeros(steps, bool)
    terminals[last], timeouts[last] = ended, ~ended
    return {
        "observations": rng.normal(size=(steps, OBS_DIM)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(steps, ACTION_DIM)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


@pytest.fixture
def write_hdf5() -> Callable[..., Path]:
    """write_hdf5(path, arrays, **attributes): `arrays` in D4RL's layout."""

    def write(path: Path, arrays: Arrays, **attributes: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            for key, values in arrays.items():
                file[key] = values
            file.attrs.update(attributes)
        return path

    return write


@pytest.fixture
def create_minari(places: tuple[Path, Path]) -> Callable[..., Path]:
    """create_minari(dataset_id, episodes, ...): a Minari dataset of episodes as dictionaries."""
    import minari
    from minari.data_collector import EpisodeBuffer

    def create(dataset_id: str, episodes: list[dict[str, Any]], **options: Any) -> Path:
        buffers = [EpisodeBuffer(**episode, infos={}) for episode in episodes]
        with warnings.catch_warnings(action="ignore"):  # Minari misses an author
            minari.create_dataset_from_buffers(dataset_id, buffers, **options)
        return places[1] / dataset_id

    return create


@pytest.fixture
def write_minari(create_minari: Callable[..., Path]) -> Callable[..., Path]:
    """write_minari(dataset_id, arrays, ...): a D4RL file's content as a Minari dataset.

    Minari wants the observation after each action. A file without `next_observations` does not
    have it for a timeout, so that episode ends one action earlier; after a terminal the file's
    next row stands in, as it does in D4RL, because nothing is bootstrapped from it.
    """

    def write(dataset_id: str, arrays: Arrays, **options: Any) -> Path:
        obs, ended, cut = (arrays[key] for key in ("observations", "terminals", "timeouts"))
        nexts = arrays.get("next_observations", np.roll(obs, -1, axis=0))
        episodes, begin = [], 0
        for last in np.flatnonzero(ended | cut).tolist():
            end = last if cut[last] and "next_observations" not in arrays else last + 1
            if end > begin:
                episodes.append(
                    {
                        "observations": np.concatenate([obs[begin:end], nexts[end - 1 : end]]),
                        "actions": arrays["actions"][begin:end],
                        "rewards": arrays["rewards"][begin:end],
                        "terminations": ended[begin:end],
                        "truncations": np.arange(begin, end) == end - 1,
                    }
                )
            begin = last + 1
        spaces = {
            "observation_space": Box(-np.inf, np.inf, obs.shape[1:], np.float32),
            "action_space": Box(-1, 1, arrays["actions"].shape[1:], np.float32),
        }
        return create_minari(dataset_id, episodes, **(spaces | options))

    return write
