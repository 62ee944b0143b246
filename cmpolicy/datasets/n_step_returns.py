"""Returns over several steps of one episode."""

from __future__ import annotations

import torch
from torch import Tensor

from cmpolicy.datasets.transitions import ReturnsToEnd, TransitionDataset
from cmpolicy.datasets.windows import first_and_last
from cmpolicy.errors import InputError


def n_step(dataset: TransitionDataset, steps: int, discount: float) -> TransitionDataset:
    """Transitions over up to `steps` steps of one episode (Sutton & Barto 2018, §7.1).

    `rewards` become Σ_i γ^i r_{t+i}, `next_observations` those after the last of the k steps, and
    `terminals` 1 − γ^{k−1} (1 − terminal), so that y = r + γ (1 − terminal) Q(s') is the n-step
    target as it stands. An episode's end cuts k short, and a terminal inside one.

    Raises:
        InputError: unless `steps` is at least 1.
    """
    if steps < 1:
        raise InputError(f"n-step targets over {steps} steps, expected at least 1")
    start = torch.arange(len(dataset), device=dataset.device)
    stops = dataset.stops
    last, alive = start.clone(), torch.ones_like(stops)
    rewards = torch.zeros_like(dataset.rewards)
    for i in range(steps):
        here = (start + i).clamp(max=len(dataset) - 1)
        rewards += discount**i * alive * dataset.rewards[here]
        last = torch.where(alive, here, last)
        alive = alive & ~stops[here]
    going_on = discount ** (last - start).to(rewards) * (1 - dataset.terminals[last])
    transitions = dataset.transitions._replace(
        rewards=rewards,
        next_observations=dataset.next_observations[last],
        terminals=1 - going_on,
    )
    return dataset.changed(transitions=transitions)


def discounted_returns(rewards: Tensor, stops: Tensor, discount: float) -> Tensor:
    """Σ_i γ^i r_{t+i} to the next of `stops`, from every transition: (N,), (N,) bool → (N,).

    What lies beyond a timeout is unknown and not counted.
    """
    returns, span = rewards.clone(), 1
    alive = ~stops  # no end among the `span` transitions from here
    while span < len(rewards) and alive.any():
        # doubles the span: what `span` transitions gave, and what they gave from there
        going_on = alive[:-span]
        returns[:-span] += discount**span * going_on * returns[span:]
        alive = torch.cat((going_on & alive[span:], torch.zeros_like(alive[:span])))
        span *= 2
    return returns


def with_returns(dataset: TransitionDataset, discount: float) -> TransitionDataset:
    """The same transitions, whose batches also reach to the episode's end.

    y = return + γ (1 − final_terminal) Q(s_final) is the Monte-Carlo target, with a bootstrap
    where a timeout cut the episode.
    """
    rewards = dataset.rewards
    index = torch.arange(len(dataset), device=dataset.device)
    last = first_and_last(dataset.stops)[1]
    going_on = discount ** (last - index).to(rewards) * (1 - dataset.terminals[last])
    to_end = ReturnsToEnd(discounted_returns(rewards, dataset.stops, discount), last, 1 - going_on)
    return dataset.changed(to_end=to_end)
