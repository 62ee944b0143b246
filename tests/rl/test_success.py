"""Success as the reward."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from cmpolicy.rl.environments import recorded_wrapper
from cmpolicy.rl.rollout import roll_out
from cmpolicy.rl.score import score_of
from cmpolicy.rl.success import SuccessReward


class Door(gymnasium.Env[Any, Any]):
    """Open in steps 3 and 4 of 5 if the episode's seed is even; its reward is −1."""

    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.even, self.t = (seed or 0) % 2 == 0, 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        opened = self.even and self.t in (3, 4)
        return np.zeros(1, np.float32), -1.0, False, self.t == 5, {"success": opened}


def test_the_score_is_the_share_of_episodes_that_succeed() -> None:
    zero = lambda seen: np.zeros((len(seen), 1), np.float32)  # noqa: E731
    episodes = roll_out(zero, lambda: SuccessReward(Door()), 4, seed=0)
    assert episodes.returns.tolist() == [1, 0, 1, 0]
    score = score_of(episodes, (0.0, 1.0))
    assert (score.normalized_score, score.mean_length) == (50.0, 5.0)
    assert recorded_wrapper("SuccessReward") is SuccessReward
