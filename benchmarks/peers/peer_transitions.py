"""A set's transitions as the published agents read them, and a file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class Transitions(NamedTuple):
    """What `d4rl.qlearning_dataset` gives, float32, and the actions that came next."""

    observations: FloatArray  # (N, obs_dim)
    actions: FloatArray  # (N, action_dim)
    rewards: FloatArray  # (N,)
    next_observations: FloatArray  # (N, obs_dim)
    next_actions: FloatArray  # (N, action_dim)
    terminals: FloatArray  # (N,)
    ends: npt.NDArray[np.bool_]  # (N,), the last transition of each episode

    @classmethod
    def of_steps(cls, steps: Any) -> Transitions:
        """The transitions among recorded steps, see `cmpolicy.datasets.alignment.Steps`."""
        known = np.flatnonzero(steps.known)
        episode = np.cumsum(np.append(False, steps.ends[:-1]))[known]
        following = np.roll(steps.actions, -1, axis=0)
        columns = (steps.observations, steps.actions, steps.rewards, steps.next_observations)
        return cls(
            *(column[known].astype(np.float32) for column in (*columns, following)),
            terminals=steps.terminals[known].astype(np.float32),
            ends=np.append(np.diff(episode) > 0, True),
        )

    def save(self, path: Path) -> None:
        """Write an npz file."""
        np.savez(path, **self._asdict())

    @classmethod
    def load(cls, path: Path) -> Transitions:
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(**file)
