"""Windows of episodes: the last observations, and the actions that follow."""

from __future__ import annotations

import torch
from torch import Tensor

from cmpolicy.datasets.transitions import TransitionDataset


def windowed(dataset: TransitionDataset, history: int, horizon: int) -> TransitionDataset:
    """The same transitions, of the last `history` observations and the next `horizon` actions.

    Windows end where episodes do. At the start the first observation is repeated. At the end the
    last action is, as in Diffusion Policy (Chi et al. 2023) and LeRobot, whose loss counts such
    actions too; Q-chunking (Li et al. 2025) leaves those windows out, but with them the step that
    earns a reward at the end.

    Returns:
        Observations (N, history · obs_dim), the oldest first; actions (N, horizon · action_dim).
        Rewards and what follows are those of one step, see `n_step` for a chunk's.
    """
    if history == horizon == 1:
        return dataset
    index = torch.arange(len(dataset), device=dataset.device)[:, None]
    first, last = first_and_last(dataset.episode_ends)
    before = index + torch.arange(1 - history, 1, device=dataset.device)
    after = index + torch.arange(horizon, device=dataset.device)
    seen = dataset.observations
    if history > 1:
        seen = seen[before.maximum(first[:, None])].flatten(1)
    following = seen[:, dataset.next_observations.shape[1] :], dataset.next_observations
    transitions = dataset.transitions._replace(
        observations=seen,
        actions=dataset.actions[after.minimum(last[:, None])].flatten(1),
        next_observations=torch.cat(following, dim=1),
    )
    return dataset.changed(transitions=transitions)


def first_and_last(ends: Tensor) -> tuple[Tensor, Tensor]:
    """Begin and end of the piece that each of N steps lies in; `ends` marks last steps, (N,)."""
    index = torch.arange(len(ends), device=ends.device)
    last = torch.where(ends, index, len(ends)).flip(0).cummin(0).values.flip(0)
    return torch.where(ends.roll(1), index, 0).cummax(0).values, last
