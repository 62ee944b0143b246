"""Offline data, and beside it what an environment gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cmpolicy.datasets.transitions import Batch, TransitionDataset
from cmpolicy.errors import InputError


class ReplayBuffer:
    """Offline transitions, and steps of an environment as they come, on the same device.

    What is added becomes transitions over up to `n_step` steps as `n_step` makes them of recorded
    data, at any moment: the newest steps look as far as is known. Half of a batch comes from the
    environment, however little of it there is (Ball et al. 2023, §4.1).

    Args:
        offline: over `n_step` steps already.
        capacity: the steps that there is room for.
        n_step, discount: of the transitions.

    Attributes:
        online: (capacity, …) of everything.
        size: how many of them there are.
        begin: where the episode in progress begins.
    """

    def __init__(
        self, offline: TransitionDataset, capacity: int, n_step: int, discount: float
    ) -> None:
        self.offline = offline
        recorded = offline.transitions.recorded
        self.online = Batch.of(c.new_zeros(capacity, *c.shape[1:]) for c in recorded)
        self.factors = discount ** torch.arange(n_step, device=offline.device).flip(0)
        self.size = self.begin = 0

    def add(
        self,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        next_observation: Tensor,
        terminal: bool,
        end: bool,
    ) -> None:
        """One step, which follows the one before unless that was an `end`.

        Args:
            observation: (obs_dim,), `next_observation` likewise.
            action: (action_dim,).
            reward: ().
            terminal: whether the environment ended the episode.
            end: whether it ended at all, by a time limit for instance.
        """
        here = self.size
        if here == len(self.online.rewards):
            raise ValueError(f"the buffer is full: it has room for {here} steps")
        self.online.observations[here], self.online.actions[here] = observation, action
        # the last n steps of the episode see as far as here now
        window = slice(max(self.begin, here + 1 - len(self.factors)), here + 1)
        factors = self.factors[window.start - window.stop :]
        self.online.rewards[window] += factors * reward.to(factors)
        self.online.next_observations[window] = next_observation.to(factors)
        self.online.terminals[window] = 1 - factors * (1 - float(terminal))
        self.size += 1
        if end:
            self.begin = self.size

    def sample(self, batch_size: int) -> Batch:
        """`batch_size` transitions drawn with replacement, half of them online if there are any."""
        if self.size == 0:
            return self.offline.sample(batch_size)
        offline = self.offline.sample(batch_size - batch_size // 2)
        index = torch.randint(self.size, (batch_size // 2,), device=self.factors.device)
        online = Batch.of(column.index_select(0, index) for column in self.online.recorded)
        return Batch(*(torch.cat(pair) for pair in zip(offline, online, strict=True)))

    @property
    def recorded(self) -> dict[str, Tensor]:
        """The columns of `online` that are no other column."""
        return dict(zip(Batch._fields, self.online.recorded, strict=False))

    def training_state(self) -> dict[str, Any]:
        """What the environment gave."""
        online = {name: c[: self.size] for name, c in self.recorded.items()}
        return {"online": online, "begin": self.begin}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `training_state` gave.

        Raises:
            InputError: if there is no room for it.
        """
        size = len(state["online"]["rewards"])
        if size > len(self.online.rewards):
            raise InputError(
                f"the environment has given {size} steps, more than online.steps="
                f"{len(self.online.rewards)}; give more online.steps"
            )
        for name, column in self.recorded.items():
            column.zero_()
            column[:size] = state["online"][name]
        self.size, self.begin = size, state["begin"]
