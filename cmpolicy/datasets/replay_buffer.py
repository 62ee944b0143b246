"""Offline data, and beside it what an environment gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cmpolicy.datasets.return_weights import draw_shares, shares_of
from cmpolicy.datasets.transitions import TransitionBatch, TransitionDataset
from cmpolicy.errors import InputError


class ReplayBuffer:
    """Offline transitions, and steps of an environment as they come, on the same device.

    What is added becomes transitions over up to `n_step` steps as `n_step` makes them of recorded
    data, at any moment: the newest steps look as far as is known. Half of a batch comes from the
    environment, however little of it there is (Ball et al. 2023, §4.1). Where good episodes of the
    data are imitated more often, so are those of the environment, on the data's scale; one that
    is in progress is not imitated yet.

    Args:
        offline: over `n_step` steps already.
        capacity: the steps that there is room for.
        n_step, discount: of the transitions.

    Attributes:
        online: (capacity, …) of everything.
        size: how many of them there are.
        begin: where the episode in progress begins.
        progress_return: what it returned so far, () float64.
        exponents: of the weights by which steps are imitated, (capacity,); −∞ for not at all.
    """

    def __init__(
        self, offline: TransitionDataset, capacity: int, n_step: int, discount: float
    ) -> None:
        self.offline = offline
        recorded = offline.transitions.recorded
        self.online = TransitionBatch.of(c.new_zeros(capacity, *c.shape[1:]) for c in recorded)
        self.factors = discount ** torch.arange(n_step, device=offline.device).flip(0)
        self.size = self.begin = 0
        self.progress_return = torch.zeros((), dtype=torch.float64, device=offline.device)
        self.exponents = self.progress_return.new_full((capacity,), -torch.inf)
        self.shares: Tensor | None = None  # none can be imitated yet

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
        self.progress_return += reward.to(self.progress_return)
        if end:
            self.finish_episode()

    def finish_episode(self) -> None:
        """The episode in progress has ended: what it returned is known."""
        if self.offline.weights is not None:
            episode = slice(self.begin, self.size)
            self.exponents[episode] = self.offline.weights.exponents(self.progress_return)
            self.shares = shares_of(self.exponents[: self.size])
        self.abandon_episode()

    def abandon_episode(self) -> None:
        """The next step begins another episode; this one's return stays unknown."""
        self.begin = self.size
        self.progress_return.zero_()

    def sample(self, batch_size: int) -> TransitionBatch:
        """`batch_size` transitions drawn with replacement, half of them online if there are any."""
        if self.size == 0:
            return self.offline.sample(batch_size)
        offline = self.offline.sample(batch_size - batch_size // 2)
        online = self.sample_online(batch_size // 2)
        return TransitionBatch(*(torch.cat(pair) for pair in zip(offline, online, strict=True)))

    def sample_online(self, count: int) -> TransitionBatch:
        """`count` transitions of the environment; beside them, what is imitated instead."""
        index = torch.randint(self.size, (count,), device=self.factors.device)
        batch = TransitionBatch.of(column.index_select(0, index) for column in self.online.recorded)
        if self.offline.weights is None:
            return batch
        if self.shares is None:
            data = self.offline.sample(count)
            observations, actions = data.imitated_observations, data.imitated_actions
        else:
            index = draw_shares(self.shares, count)
            observations, actions = (c.index_select(0, index) for c in self.online[:2])
        return batch._replace(imitated_observations=observations, imitated_actions=actions)

    @property
    def recorded(self) -> dict[str, Tensor]:
        """The columns of `online` that are no other column."""
        return dict(zip(TransitionBatch._fields, self.online.recorded, strict=False))

    def training_state(self) -> dict[str, Any]:
        """What the environment gave."""
        online = {name: c[: self.size] for name, c in self.recorded.items()}
        return {
            "online": online,
            "begin": self.begin,
            "progress_return": self.progress_return,
            "exponents": self.exponents[: self.size],
        }

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
        self.progress_return.copy_(state["progress_return"])
        self.exponents.fill_(-torch.inf)[:size] = state["exponents"]
        known = bool(self.exponents.isfinite().any())
        self.shares = shares_of(self.exponents[:size]) if known else None
