"""The `d4rl` package itself, for those who have it working."""

from __future__ import annotations

from typing import Any

from cmpolicy.datasets.d4rl_hdf5 import OPTIONAL_KEYS, REQUIRED_KEYS
from cmpolicy.datasets.time_limit import time_limit
from cmpolicy.datasets.transitions import DatasetInfo, TransitionDataset
from cmpolicy.errors import InputError, one_line


def load_d4rl_package(dataset_id: str) -> TransitionDataset:
    """Read `gym.make(dataset_id).get_dataset()` of the `d4rl` package as transitions.

    Raises:
        InputError: the package does not import here, or does not know the dataset.
    """
    arrays, registered = _read(dataset_id)
    kept = {key: arrays[key] for key in (*REQUIRED_KEYS, *OPTIONAL_KEYS) if key in arrays}
    info = DatasetInfo(dataset_id=dataset_id, source="d4rl_package", comparable=True)
    limit = time_limit(dataset_id, kept, registered=registered)
    return TransitionDataset.from_arrays(**kept, max_episode_steps=limit, info=info)


def _read(dataset_id: str) -> tuple[dict[str, Any], int | None]:
    try:
        import d4rl  # noqa: F401  registers its environments
        import gym

        env = gym.make(dataset_id)
        return env.get_dataset(), getattr(env, "_max_episode_steps", None)
    except Exception as error:  # mujoco-py fails with a plain Exception where it cannot be built
        reason = one_line(error)
        raise InputError(
            f"the d4rl package gives no {dataset_id} here ({type(error).__name__}: {reason}); "
            "use dataset.source=d4rl, which reads the same file without the package"
        ) from None
