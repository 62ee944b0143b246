"""Minari datasets, local or downloaded: episodes of T+1 observations and T actions."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cmpolicy.datasets.alignment import Episode
from cmpolicy.datasets.array_validation import is_own, is_own_dataset
from cmpolicy.datasets.dict_observations import flatten
from cmpolicy.datasets.minari_metadata import MinariMetadata, read_metadata
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.declared_size import check_declared_size
from cmpolicy.download import unreachable
from cmpolicy.errors import InputError, one_line


@dataclass
class _Episode:
    observations: Any
    actions: Any
    rewards: Any
    terminations: Any


def minari_directory() -> Path:
    """`$MINARI_DATASETS_PATH`, or Minari's own place: `~/.minari/datasets`."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()


def minari_on_disk(dataset_id: str) -> Path | None:
    """The directory of a dataset under `minari_directory()`, or None."""
    directory = minari_directory() / dataset_id
    return directory if (directory / "data" / "metadata.json").is_file() else None


def load_minari(dataset: str | os.PathLike[str]) -> TransitionDataset:
    """Read a local Minari dataset, by its id or its directory, as transitions.

    Observations must be vectors, or dictionaries of vectors, which are put end to end in the
    order that the metadata give. `info` carries the reference scores where the metadata have
    them, and the environment meant for evaluation.

    Raises:
        InputError: not there, not readable, other spaces, or episodes that do not fit.
    """
    directory = minari_on_disk(str(dataset)) or Path(dataset).expanduser()
    if not (directory / "data" / "metadata.json").is_file():
        raise InputError(
            f"no Minari dataset {str(dataset)!r} in {minari_directory()}; expected an id such as "
            f"mujoco/hopper/medium-v0, set MINARI_DATASETS_PATH or `minari download {dataset}`"
        )
    metadata = read_metadata(directory / "data" / "metadata.json")
    info = dataclasses.replace(metadata.info, path=str(directory))
    try:
        return TransitionDataset.from_episodes(_episodes(directory, metadata), info=info)
    except InputError as error:
        raise InputError(f"{info.dataset_id}: {error}") from None
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"the Minari dataset in {directory} cannot be read ({reason}); download it again"
        ) from None


def download_minari(dataset_id: str) -> Path:
    """Fetch a dataset from `$MINARI_REMOTE` (by default Farama's) into `minari_directory()`.

    Raises:
        InputError: nobody answers within five seconds, or the remote does not give it.
    """
    minari = _reachable_minari()
    try:
        minari.download_dataset(dataset_id)
    except Exception as error:  # each remote raises its own
        reason = one_line(error)
        raise InputError(f"Minari's {dataset_id} does not download ({reason})") from None
    return minari_directory() / dataset_id


def list_remote() -> dict[str, dict[str, Any]]:
    """Give the metadata of all datasets on `$MINARI_REMOTE` by their ids.

    Raises:
        InputError: nobody answers within five seconds, or the remote does not list them.
    """
    minari = _reachable_minari()
    try:
        return dict(minari.list_remote_datasets())
    except Exception as error:  # each remote raises its own
        raise InputError(f"Minari's server lists no datasets ({one_line(error)})") from None


def _reachable_minari() -> Any:
    reason = unreachable(_remote_url())
    if reason:
        raise InputError(
            f"{_remote_url()} cannot be reached ({reason}); check the network, or MINARI_REMOTE"
        )
    return _minari()


def _remote_url() -> str:
    remote = os.environ.get("MINARI_REMOTE") or "hf://farama-minari"
    kind, _, name = remote.partition("://")
    if kind == "hf":
        return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if kind == "gcp":
        return f"https://storage.googleapis.com/{name}"
    raise InputError(f"MINARI_REMOTE is {remote!r}, expected hf://<name> or gcp://<name>")


def _minari() -> Any:
    try:
        import minari
    except ImportError as error:
        raise InputError(
            f"Minari does not import ({error}); install it with pip install 'minari[hdf5,hf]'"
        ) from None
    return minari


def _episodes(directory: Path, metadata: MinariMetadata) -> Iterator[Episode]:
    """Read one episode after the other, without its `infos`."""
    if metadata.data_format != "hdf5":
        yield from _episodes_of_minari(directory, metadata)
        return
    main = directory / "data" / "main_data.hdf5"
    with h5py.File(main, "r") as file:
        columns = [
            _columns(file, f"episode_{number}", metadata.info.observation_keys)
            for number in range(metadata.episodes)
        ]
        check_declared_size(main, sum(c.nbytes for all_ in columns for c in all_))
        for *observations, actions, rewards, terminations in columns:
            parts = [np.asarray(part[()]) for part in observations]
            yield _Episode(
                parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1),
                *(np.asarray(column[()]) for column in (actions, rewards, terminations)),
            )


def _columns(file: h5py.File, name: str, keys: list[str] | None) -> list[h5py.Dataset]:
    """List the arrays of an episode: of observations, then actions, rewards and terminations."""
    paths = [f"observations/{key}" for key in keys] if keys else ["observations"]
    found = []
    for path in (*paths, "actions", "rewards", "terminations"):
        group = file
        *groups, last = (name, *path.split("/"))
        for part in groups:
            if not is_own(group, part) or not isinstance(group[part], h5py.Group):
                raise InputError(f"{name} has no {path}, expected as the metadata say")
            group = group[part]
        if not is_own_dataset(group, last):
            raise InputError(f"{name} has no {path}, expected as the metadata say")
        found.append(group[last])
    return found


def _episodes_of_minari(directory: Path, metadata: MinariMetadata) -> Iterator[Episode]:
    """Read episodes that are stored as Arrow or Parquet with Minari itself."""
    try:
        from minari.dataset.minari_storage import MinariStorage

        # with both spaces in the metadata, as `read_metadata` has checked, it makes no environment
        episodes = MinariStorage.read(directory / "data").get_episodes(range(metadata.episodes))
    except ImportError as error:
        raise InputError(
            f"its format {metadata.data_format} needs a package that is not there ({error})"
        ) from None
    for episode in episodes:
        keys, observations = metadata.info.observation_keys, episode["observations"]
        flat = flatten(observations, keys) if keys else observations
        yield _Episode(flat, episode["actions"], episode["rewards"], episode["terminations"])
