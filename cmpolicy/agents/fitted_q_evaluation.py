"""Fitted Q evaluation: what policies are worth, from data alone (Le et al. 2019, algorithm 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cmpolicy.agents.agent import frozen_copy
from cmpolicy.consistency.ema import ema_update
from cmpolicy.datasets.n_step_returns import with_returns
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.networks.critic import EnsembleCritic

ActOn = Callable[[Tensor], Tensor]  # (B, obs_dim) → (B, action_dim)
HELD_OUT = 0.1  # of the episodes: values are those of their first observations
WARM_UP = 0.25  # of the updates, on the returns of the data, which all policies share
LEARNING_RATE, TAU, BATCH_SIZE, HIDDEN = 1e-3, 0.01, 256, (256, 256)
ROWS_AT_ONCE = 1_000  # observations that a policy acts on at a time


class PolicyValues(NamedTuple):
    """Discounted returns of K policies from E first observations, in the unit of the rewards."""

    values: Tensor  # (K, E)
    data: float  # the mean discounted return of the data's episodes

    @property
    def mean(self) -> Tensor:
        """(K,)"""
        return self.values.mean(1)

    @property
    def standard_error(self) -> Tensor:
        """Of each mean, over first observations, (K,)."""
        return self.values.std(1, correction=0) / math.sqrt(self.values.shape[1])


def fitted_q_evaluation(
    policies: Sequence[ActOn],
    dataset: TransitionDataset,
    *,
    discount: float,
    updates: int,
    transitions: int,
    seed: int = 0,
    progress: Callable[[int], object] = lambda updates: None,
) -> PolicyValues:
    """Fit Q of each policy to the data's transitions, all on the same batches.

    Q begins as the return of the data, so that few updates reach far, and policies that act alike
    get values that are alike.

    Args:
        policies: how each acts, without noise.
        dataset: with plain rewards.
        transitions: drawn from the data at most; a policy acts once on each.
        progress: called with the number of updates done since the last call.

    Raises:
        InputError: if the data holds fewer than two episodes.
    """
    draws = torch.Generator(dataset.device).manual_seed(seed)
    dataset = with_returns(dataset, discount)
    first, rows = split_episodes(dataset.episode_ends, transitions, draws)
    assert dataset.to_end is not None
    returns = dataset.to_end.returns
    scale = 1 / returns.std(correction=0).clamp_min(1e-6)
    batch, latest = dataset.at(rows), policies[-1]
    starts = dataset.observations[first]
    chosen = actions_of(policies, batch.next_observations)  # (K, N, action_dim)
    ends, end_of = torch.unique(dataset.to_end.last[rows], return_inverse=True)
    at_end = dataset.next_observations[ends]
    final_actions = actions_of([latest], at_end)[0]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = make_critic(dataset, 1, scale * returns.mean())
    warm_up = int(WARM_UP * updates)

    def returns_target(target: EnsembleCritic, index: Tensor) -> Tensor:
        at = end_of[index]
        q: Tensor = target(at_end[at], final_actions[at])
        going_on = discount * (1 - batch.final_terminals[index])
        return scale * batch.returns[index] + going_on * q

    def one_step_target(target: EnsembleCritic, index: Tensor) -> Tensor:
        q: Tensor = target(batch.next_observations[index], chosen[:, index])
        return scale * batch.rewards[index] + discount * (1 - batch.terminals[index]) * q

    fit = (batch.observations, batch.actions, draws, progress)
    descend(critic, returns_target, warm_up, *fit)
    many = make_critic(dataset, len(policies), scale * returns.mean())
    for own, shared in zip(many.parameters(), critic.parameters(), strict=True):
        own.data.copy_(shared.data.expand_as(own))
    descend(many, one_step_target, updates - warm_up, *fit)
    with torch.no_grad():
        values = many(starts, actions_of(policies, starts)) / scale
    return PolicyValues(values, float(returns[first].mean()))


def split_episodes(
    episode_ends: Tensor, transitions: int, draws: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The first transitions of held-out episodes, and transitions of the others to fit."""
    last = torch.nonzero(episode_ends).flatten()
    if len(last) < 2:
        raise InputError(f"the data holds {len(last)} episode, expected at least 2: one to value")
    first = torch.cat((last.new_zeros(1), last[:-1] + 1))
    order = torch.randperm(len(last), generator=draws, device=last.device)
    held_out = order[: max(1, round(HELD_OUT * len(last)))]
    episode = torch.cumsum(episode_ends, 0) - episode_ends.long()
    rows = torch.nonzero(~torch.isin(episode, held_out)).flatten()
    few = torch.randperm(len(rows), generator=draws, device=rows.device)[:transitions]
    return first[held_out], rows[few]


@torch.no_grad()
def actions_of(policies: Sequence[ActOn], observations: Tensor) -> Tensor:
    """What K policies do at N observations, (K, N, action_dim)."""
    parts = torch.split(observations, ROWS_AT_ONCE)
    return torch.stack([torch.cat([act(part) for part in parts]) for act in policies])


def make_critic(dataset: TransitionDataset, ensemble: int, value_mean: Tensor) -> EnsembleCritic:
    """Critics that standardise what they see by the statistics of the data."""
    critic = EnsembleCritic(dataset.obs_dim, dataset.action_dim, HIDDEN, ensemble)
    critic.obs_mean.copy_(dataset.observation_mean)
    critic.obs_std.copy_(dataset.observation_std)
    low, high = dataset.actions.amin(0), dataset.actions.amax(0)
    critic.action_center.copy_((low + high) / 2)
    critic.action_half_range.copy_(((high - low) / 2).clamp_min(1e-6))
    critic.value_mean.copy_(value_mean)
    return critic.to(dataset.device)


def descend(
    critic: EnsembleCritic,
    target_of: Callable[[EnsembleCritic, Tensor], Tensor],
    updates: int,
    observations: Tensor,
    actions: Tensor,
    draws: torch.Generator,
    progress: Callable[[int], object],
) -> None:
    """Minimise Σ_k E[(Q_k(s, a) − y_k)²] by Adam, whose rate falls to zero."""
    target = frozen_copy(critic)
    adam = torch.optim.Adam(critic.parameters(), LEARNING_RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, updates))
    for _ in range(updates):
        index = torch.randint(
            len(observations), (BATCH_SIZE,), generator=draws, device=draws.device
        )
        with torch.no_grad():
            y = target_of(target, index)
        loss = (critic(observations[index], actions[index]) - y).square().mean(1).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.step()
        ema_update(target, critic, 1 - TAU)
        progress(1)
