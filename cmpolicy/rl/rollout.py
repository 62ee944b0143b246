"""Whole episodes of a policy in vectorised environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from cmpolicy.array_types import FloatArray

Act = Callable[[FloatArray], FloatArray]  # (N, obs_dim) → (N, action_dim); or (R, N, …)
MakeEnv = Callable[[], gymnasium.Env[Any, Any]]


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


class OneEpisode(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that stands still after its first episode, which costs no time."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.over = False
        self.observation: Any = None

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin the episode; after it, nothing."""
        if self.over:
            return self.observation, {}
        return super().reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step of the episode; after it, the last observation once more, and no reward."""
        if self.over:
            return self.observation, 0.0, False, False, {}
        self.observation, reward, terminated, truncated, info = super().step(action)
        self.over = terminated or truncated
        return self.observation, reward, terminated, truncated, info


def roll_out(act: Act, make_env: MakeEnv, episodes: int, seed: int) -> Episodes:
    """One episode in each of `episodes` environments, stepped together.

    Every environment gives exactly one episode, so long episodes count as often as short ones.
    Environment i is seeded with `seed` + i. One call of `act` a step serves all of them.
    """
    [rolled] = roll_out_seeds(lambda obs: act(obs[0])[None], make_env, episodes, [seed])
    return rolled


def roll_out_seeds(
    act: Act, make_env: MakeEnv, episodes: int, seeds: Sequence[int]
) -> list[Episodes]:
    """`roll_out` for each of R seeds, the environments of all stepped together.

    One call of `act` a step, (R, episodes, obs_dim) → (R, episodes, action_dim), serves all.
    """
    shape = (len(seeds), episodes)
    envs = gymnasium.vector.SyncVectorEnv([lambda: OneEpisode(make_env())] * (shape[0] * shape[1]))
    try:
        observations, _ = envs.reset(seed=[seed + i for seed in seeds for i in range(episodes)])
        returns = np.zeros(shape)
        lengths = np.zeros(shape, dtype=np.int64)
        running = np.ones(shape, dtype=bool)
        while running.any():
            actions = act(observations.astype(np.float32).reshape(*shape, -1))
            flat = actions.reshape(envs.num_envs, -1)
            observations, rewards, terminated, truncated, _ = envs.step(flat)
            returns += rewards.reshape(shape)
            lengths += running
            running &= ~(terminated | truncated).reshape(shape)
    finally:
        envs.close()
    return [Episodes(*rows) for rows in zip(returns, lengths, strict=True)]
