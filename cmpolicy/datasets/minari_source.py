"""Minari datasets, local or downloaded: episodes of T+1 observations and T actions."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cmpolicy.datasets.alignment import Episode
from cmpolicy.datasets.transitions import DatasetInfo, TransitionDataset
from cmpolicy.download import unreachable
from cmpolicy.errors import InputError

if TYPE_CHECKING:
    from minari import MinariDataset

# the namespaces in which Farama publishes
PUBLISHED = ("D4RL/", "mujoco/")


def minari_directory() -> Path:
    """`$MINARI_DATASETS_PATH`, or Minari's own place: `~/.minari/datasets`."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()


def minari_on_disk(dataset_id: str) -> Path | None:
    """The directory of a dataset under `minari_directory()`, or None."""
    directory = minari_directory() / dataset_id
    return directory if (directory / "data" / "metadata.json").is_file() else None


def load_minari(dataset: str | os.PathLike[str]) -> TransitionDataset:
    """A local Minari dataset, by its id or its directory, as transitions.

    Observations must be vectors, or dictionaries of vectors, which are put end to end by sorted
    key, as `gymnasium.wrappers.FlattenObservation` does in Gymnasium-Robotics' environments:
    AntMaze becomes achieved_goal, desired_goal, observation. `info` carries the reference scores
    where the metadata has them, and as `env_spec` the environment meant for evaluation.

    Raises:
        InputError: not there, not readable, other spaces, or episodes that do not fit.
    """
    directory = minari_on_disk(str(dataset)) or Path(dataset).expanduser()
    if not (directory / "data" / "metadata.json").is_file():
        raise InputError(
            f"no Minari dataset {str(dataset)!r} in {minari_directory()}; expected an id such as "
            f"mujoco/hopper/medium-v0, set MINARI_DATASETS_PATH or `minari download {dataset}`"
        )
    opened = _opened(directory)
    try:
        return TransitionDataset.from_episodes(_episodes(opened), info=_info(opened, directory))
    except InputError as error:
        raise InputError(f"{opened.id}: {error}") from None
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise _damaged(directory, error) from None


def download_minari(dataset_id: str) -> Path:
    """Fetch a dataset from `$MINARI_REMOTE` (by default Farama's) into `minari_directory()`.

    Raises:
        InputError: nobody answers within five seconds, or the remote does not give it.
    """
    reason = unreachable(_remote_url())
    if reason:
        raise InputError(
            f"{_remote_url()} cannot be reached ({reason}); check the network, or MINARI_REMOTE"
        )
    minari = _minari()
    try:
        minari.download_dataset(dataset_id)
    except Exception as error:  # each remote raises its own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"Minari's {dataset_id} does not download ({reason})") from None
    return minari_directory() / dataset_id


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


def _opened(directory: Path) -> MinariDataset:
    try:
        opened: MinariDataset = _minari().MinariDataset(directory / "data")
        return opened
    except (OSError, KeyError, ValueError, AssertionError) as error:
        raise _damaged(directory, error) from None


def _damaged(directory: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(
        f"the Minari dataset in {directory} cannot be read ({reason}); delete it and download "
        "it again"
    )


def _info(opened: MinariDataset, directory: Path) -> DatasetInfo:
    metadata = opened.storage.metadata
    spec = getattr(opened, "_eval_env_spec", None) or opened.env_spec
    return DatasetInfo(
        dataset_id=opened.id,
        source="minari",
        path=str(directory),
        env_id=opened.env_spec.id if opened.env_spec else None,
        comparable=opened.id.startswith(PUBLISHED),
        ref_min_score=metadata.get("ref_min_score"),
        ref_max_score=metadata.get("ref_max_score"),
        env_spec=spec.to_json() if spec else None,
    )


def _episodes(opened: MinariDataset) -> Iterator[Episode]:
    from gymnasium.spaces import Box

    actions = opened.action_space
    if not (isinstance(actions, Box) and len(actions.shape) == 1):
        raise InputError(f"the actions are {actions}, expected a Box of one dimension")
    for episode in opened.iterate_episodes():
        flat = _flat(opened.observation_space, episode.observations)
        yield dataclasses.replace(episode, observations=flat)


def _flat(space: Any, values: Any) -> NDArray[Any]:
    from gymnasium.spaces import Box, Dict

    if isinstance(space, Dict):
        parts = [_flat(space[key], values[key]) for key in sorted(space.spaces)]
        return np.concatenate(parts, axis=1)
    if isinstance(space, Box) and len(space.shape) == 1:
        return np.asarray(values)
    raise InputError(f"the observations are {space}, expected vectors or dictionaries of vectors")
