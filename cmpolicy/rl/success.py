"""Success as the reward: the measure of tasks that are solved or not."""

from __future__ import annotations

from typing import Any

import gymnasium


class SuccessReward(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A reward of 1 at the first step whose info says ``success``: an episode returns 1 or 0."""

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, of which nothing is known yet."""
        self.succeeded = False
        return super().reset(**options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do one step."""
        observation, _, terminated, truncated, info = super().step(action)
        first = bool(info["success"]) and not self.succeeded
        self.succeeded |= first
        return observation, float(first), terminated, truncated, info
