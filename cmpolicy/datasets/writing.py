"""Datasets written to disk: as a Minari dataset, or as one HDF5 file in D4RL's layout."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Space

from cmpolicy.array_types import FloatArray
from cmpolicy.datasets.minari_metadata import PUBLISHED
from cmpolicy.datasets.minari_source import minari_directory
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError

MINARI_ID = re.compile(r"[-\w]+(/[-\w]+)*-v\d+")


@dataclass(frozen=True)
class About:
    """What is written beside the transitions.

    Attributes:
        env_id, env_kwargs, max_episode_steps: the environment, where it is known.
        action_low, action_high: its bounds, (action_dim,).
        references: (minimum, maximum) return, where they are known.
        observation_sizes: entries of an observation that is a dictionary, ``goal/burner`` for
            nested ones, with their sizes in the order of the vector; empty for a vector.
        algorithm: what acted.
        provenance: how the data were made, for JSON.
    """

    action_low: Sequence[float]
    action_high: Sequence[float]
    env_id: str | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_episode_steps: int | None = None
    references: tuple[float, float] | None = None
    observation_sizes: Mapping[str, int] = field(default_factory=dict)
    algorithm: str = "unknown"
    provenance: Mapping[str, Any] = field(default_factory=dict)


def check_out(out: str) -> Path:
    """Give the path of a dataset that is to be written: a Minari id's directory, or a file.

    Raises:
        InputError: neither, something is there already, or an id in a published namespace.
    """
    if out.endswith((".hdf5", ".h5")):
        path = Path(out).expanduser()
    elif MINARI_ID.fullmatch(out):
        if out.startswith(PUBLISHED):
            raise InputError(
                f"out={out} is in a namespace of published datasets ({', '.join(PUBLISHED)}); "
                "choose a namespace of your own"
            )
        path = minari_directory() / out
    else:
        raise InputError(
            f"out={out} is neither FILE.hdf5 nor a Minari id; give one, as mine/hopper/bc-v0"
        )
    if path.exists():
        raise InputError(f"{path} is there already; remove it, or choose another out=")
    return path


def write_dataset(dataset: TransitionDataset, out: str, about: About) -> Path:
    """Write FILE.hdf5 or a Minari dataset, whole or not at all, and give its path.

    Values are float32, as D4RL's own.

    Raises:
        InputError: see `check_out`; or it cannot be written.
    """
    path = check_out(out)
    try:
        with _whole(path) as unfinished:
            if path.suffix in (".hdf5", ".h5"):
                _write_hdf5(dataset, unfinished, about)
            else:
                _write_minari(dataset, unfinished, out, about)
                _make_namespaces(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write {path}: {reason}; choose another out=") from error
    return path


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a hidden path beside `path` that takes its name once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        unfinished.unlink(missing_ok=True)


def _columns(dataset: TransitionDataset) -> list[FloatArray]:
    """Give the columns; a terminal step without a recorded next observation gets its own.

    In memory such a step has the first observation of the next episode, which nothing reads.
    """
    observations, actions, rewards, nexts, terminals = (
        column.cpu().numpy() for column in dataset.transitions.recorded
    )
    unknown = (terminals > 0) & (nexts == np.roll(observations, -1, axis=0)).all(1)
    nexts = np.where(unknown[:, None], observations, nexts)
    return [observations, actions, rewards, nexts, terminals]


def _write_hdf5(dataset: TransitionDataset, path: Path, about: About) -> None:
    observations, actions, rewards, nexts, terminals = _columns(dataset)
    ended = terminals > 0
    arrays = {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "next_observations": nexts,
        "terminals": ended,
        "timeouts": dataset.episode_ends.cpu().numpy() & ~ended,
    }
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", chunks=True)
        if about.env_id is not None:
            file.attrs["env_id"] = about.env_id
        file.attrs["algorithm"] = about.algorithm
        file.attrs["provenance"] = json.dumps(about.provenance)


def _write_minari(dataset: TransitionDataset, path: Path, dataset_id: str, about: About) -> None:
    """Write with Minari's storage; its collector, which needs JAX, is not used."""
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    data = path / "data"
    data.mkdir(parents=True)
    low, high = (np.asarray(end, np.float32) for end in (about.action_low, about.action_high))
    storage = MinariStorage.new(
        data,
        observation_space=_observation_space(dataset.obs_dim, about.observation_sizes),
        action_space=Box(low, high, dtype=np.float32),
        env_spec=_spec(about),
    )
    references: dict[str, Any] = {}
    if about.references is not None:
        low_score, high_score = about.references
        references = {"ref_min_score": low_score, "ref_max_score": high_score}
    storage.update_metadata(
        {
            "dataset_id": dataset_id,
            "minari_version": minari.__version__,
            "algorithm_name": about.algorithm,
            "description": f"Written by cmpolicy. {about.algorithm}.",
            "provenance": dict(about.provenance),
            **references,
        }
    )
    storage.update_episodes(
        EpisodeBuffer(
            observations=_nested(columns["observations"], about.observation_sizes),
            **{name: columns[name] for name in columns if name != "observations"},
        )
        for columns in _episodes(dataset)
    )


def _episodes(dataset: TransitionDataset) -> Iterator[dict[str, Any]]:
    """Give the columns of each episode in Minari's alignment: T+1 observations, T actions."""
    observations, actions, rewards, nexts, terminals = _columns(dataset)
    ends = np.flatnonzero(dataset.episode_ends.cpu().numpy())
    for begin, end in zip([0, *(ends[:-1] + 1)], ends + 1, strict=True):
        steps = slice(begin, end)
        truncations = np.zeros(end - begin, np.bool_)
        truncations[-1] = not terminals[end - 1]
        yield {
            "observations": np.concatenate([observations[steps], nexts[end - 1 : end]]),
            "actions": actions[steps],
            "rewards": rewards[steps],
            "terminations": terminals[steps] > 0,
            "truncations": truncations,
        }


def _nested(vectors: FloatArray, sizes: Mapping[str, int]) -> Any:
    """Split (T, sum of sizes) into the arrays of a nested dictionary; leave it if there is none."""
    if not sizes:
        return vectors
    parts = np.split(vectors, np.cumsum(list(sizes.values()))[:-1], axis=1)
    return _tree(dict(zip(sizes, parts, strict=True)))


def _tree(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nest values by the slashes of their keys."""
    tree: dict[str, Any] = {}
    for key, value in leaves.items():
        *above, last = key.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def _observation_space(size: int, sizes: Mapping[str, int]) -> Space[Any]:
    def space(node: Any) -> Space[Any]:
        if isinstance(node, dict):
            # as pairs: Gymnasium sorts the keys of a plain dictionary
            return Dict([(key, space(below)) for key, below in node.items()])
        return Box(-np.inf, np.inf, (node,), np.float32)

    return space(_tree(sizes) if sizes else size)


def _spec(about: About) -> EnvSpec | None:
    """Make the specification by which Minari recovers the environment; None where it is unknown."""
    name = (about.env_id or "").rpartition(":")[2]
    if name not in gymnasium.registry:
        return None
    spec = gymnasium.spec(name)
    entry = spec.entry_point
    if callable(entry):  # JSON takes names alone
        entry = f"{entry.__module__}:{getattr(entry, '__qualname__', entry)}"
    return EnvSpec(
        id=spec.id,
        entry_point=entry,
        reward_threshold=spec.reward_threshold,
        nondeterministic=spec.nondeterministic,
        max_episode_steps=about.max_episode_steps or spec.max_episode_steps,
        order_enforce=spec.order_enforce,
        disable_env_checker=spec.disable_env_checker,
        kwargs={**spec.kwargs, **about.env_kwargs},
    )


def _make_namespaces(directory: Path) -> None:
    """Mark the folders between Minari's directory and a dataset as its namespaces."""
    while directory != minari_directory():
        mark = directory / "namespace_metadata.json"
        if not mark.exists():
            mark.write_text("{}")
        directory = directory.parent
