"""Whole episodes of a policy in vectorised environments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Act = Callable[[FloatArray], FloatArray]  # (N, obs_dim) → (N, action_dim)


@dataclass(frozen=True)
class Episodes:
    """What came of a number of episodes.

    Attributes:
        returns: (episodes,) undiscounted sums of rewards.
        lengths: (episodes,) numbers of steps.
    """

    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]

    @property
    def mean_return(self) -> float:
        """Mean over episodes."""
        return float(self.returns.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean return; 0 for a single episode."""
        n = len(self.returns)
        return float(self.returns.std(ddof=1) / n**0.5) if n > 1 else 0.0


def roll_out(
    act: Act, make_env: Callable[[], gymnasium.Env[Any, Any]], episodes: int, seed: int
) -> Episodes:
    """One episode in each of `episodes` environments, stepped together.

    Every environment gives exactly one episode, so long episodes count as often as short ones.
    Environment i is seeded with `seed` + i. One call of `act` a step serves all of them.
    """
    envs = gymnasium.vector.SyncVectorEnv([make_env] * episodes)
    try:
        observations, _ = envs.reset(seed=[seed + i for i in range(episodes)])
        returns = np.zeros(episodes)
        lengths = np.zeros(episodes, dtype=np.int64)
        running = np.ones(episodes, dtype=bool)
        while running.any():
            actions = act(observations.astype(np.float32))
            observations, rewards, terminated, truncated, _ = envs.step(actions)
            returns += rewards * running
            lengths += running
            running &= ~(terminated | truncated)
    finally:
        envs.close()
    return Episodes(returns, lengths)
