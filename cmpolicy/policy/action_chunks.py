"""Action chunks: several actions at once, of the last observations, executed open loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cmpolicy.array_types import BoolArray, FloatArray

Plan = Callable[[FloatArray], FloatArray]  # (…, history · obs_dim) → (…, horizon · action_dim)


class Window(NamedTuple):
    """What a policy sees and gives: the last `history` observations, the next `horizon` actions.

    Of these `execute` are done before the next are asked for.
    """

    horizon: int = 1
    execute: int = 1
    history: int = 1


class ChunkQueue:
    """Last observations of several environments, and the actions that are still to be done there.

    At the start of an episode its first observation stands for those before it.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.reset()

    def reset(self) -> None:
        """Begin new episodes everywhere."""
        self.seen: FloatArray | None = None  # (…, history, obs_dim)

    def act(
        self, plan: Plan, observations: FloatArray, episode_start: BoolArray | None = None
    ) -> FloatArray:
        """One step of every environment: (…, obs_dim) → (…, action_dim).

        Args:
            plan: is called where no action is left, if that is so everywhere with leading
                dimensions as here, else with a batch of those.
            episode_start: (…) bool, where an episode has just begun; another shape of
                `observations` begins episodes everywhere.
        """
        horizon, execute, history = self.window
        if horizon == history == 1:
            return plan(observations)
        *lead, size = observations.shape
        if self.seen is None or self.seen.shape != (*lead, history, size):
            self.seen = np.zeros((*lead, history, size), observations.dtype)
            self.done, episode_start = np.zeros(lead, np.int64), np.ones(lead, np.bool_)
        self.seen = np.roll(self.seen, -1, axis=-2)
        self.seen[..., -1, :] = observations
        due: BoolArray = self.done >= execute
        if episode_start is not None:
            self.seen[episode_start] = observations[episode_start][:, None]
            due = due | episode_start
        if due.all():
            self.chunk = plan(self.seen.reshape(*lead, -1)).reshape(*lead, horizon, -1)
        elif due.any():
            self.chunk[due] = plan(self.seen[due].reshape(-1, history * size)).reshape(
                -1, *self.chunk.shape[-2:]
            )
        self.done = np.where(due, 0, self.done)
        actions: FloatArray = np.take_along_axis(self.chunk, self.done[..., None, None], -2)
        self.done = self.done + 1
        return actions[..., 0, :]


def tiled(bound: float | Sequence[float], size: int, times: int) -> float | Sequence[float]:
    """The bound of a chunk: that of an action, a number or (size,), `times` over."""
    same = times == 1 or np.ndim(bound) == 0
    return bound if same else np.tile(np.broadcast_to(bound, size), times).tolist()
