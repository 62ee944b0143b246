"""Fitted Q evaluation on a chain whose values are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cmpolicy.agents.fitted_q_evaluation import fitted_q_evaluation, split_episodes
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError

LENGTH, DISCOUNT = 3, 0.9


def chain(episodes: int, *, terminal: bool) -> TransitionDataset:
    """Episodes whose observation is the time, whose reward is the action, drawn in [−1, 1]."""
    draws = torch.Generator().manual_seed(0)
    actions = 2 * torch.rand(episodes * LENGTH, 1, generator=draws) - 1
    time = torch.arange(LENGTH + 1.0) / LENGTH
    last = torch.zeros(episodes, LENGTH)
    last[:, -1] = 1
    return TransitionDataset.from_arrays(
        observations=time[:-1].repeat(episodes)[:, None].numpy(),
        actions=actions.numpy(),
        rewards=actions[:, 0].numpy(),
        terminals=(last * terminal).flatten().numpy(),
        timeouts=(last * (not terminal)).flatten().numpy(),
        next_observations=time[1:].repeat(episodes)[:, None].numpy(),
    )


def always(action: float) -> object:
    def act(observations: Tensor) -> Tensor:
        return torch.full((len(observations), 1), action)

    return act


def test_policies_get_their_discounted_returns() -> None:
    constants = [-0.5, 0.0, 0.5]
    values = fitted_q_evaluation(
        [always(c) for c in constants],  # type: ignore[misc]
        chain(100, terminal=True),
        discount=DISCOUNT,
        updates=500,
        transitions=10_000,
    )
    length = sum(DISCOUNT**t for t in range(LENGTH))
    assert values.values.shape == (3, 10)  # a tenth of the episodes is held out
    torch.testing.assert_close(values.mean, length * torch.tensor(constants), atol=0.15, rtol=0)
    assert (values.standard_error < 0.01).all()  # all episodes begin alike
    assert abs(values.data) < 1.0


def test_a_timeout_is_no_end() -> None:
    value = fitted_q_evaluation(
        [always(0.5)],  # type: ignore[list-item]
        chain(100, terminal=False),
        discount=DISCOUNT,
        updates=500,
        transitions=10_000,
    ).mean.item()
    assert value > 0.5 * sum(DISCOUNT**t for t in range(LENGTH)) + 0.3  # what follows counts too


def test_the_same_seed_gives_the_same_values_and_counts_every_update() -> None:
    def values(seed: int) -> tuple[Tensor, int]:
        done: list[int] = []
        result = fitted_q_evaluation(
            [always(0.1)],  # type: ignore[list-item]
            chain(20, terminal=True),
            discount=DISCOUNT,
            updates=8,
            transitions=50,
            seed=seed,
            progress=done.append,
        )
        return result.values, sum(done)

    first, count = values(seed=1)
    assert count == 8
    torch.testing.assert_close(values(seed=1)[0], first, atol=0, rtol=0)
    assert not torch.equal(values(seed=2)[0], first)


def test_held_out_episodes_are_not_fitted() -> None:
    ends = torch.zeros(30, dtype=torch.bool)
    ends[2::3] = True
    first, rows = split_episodes(ends, 1_000, torch.Generator().manual_seed(0))
    assert len(first) == 1
    assert first.item() % 3 == 0
    assert sorted(rows.tolist()) == [i for i in range(30) if i // 3 != first.item() // 3]
    assert len(split_episodes(ends, 5, torch.Generator())[1]) == 5


def test_one_episode_is_refused() -> None:
    with pytest.raises(InputError, match="1 episode"):
        split_episodes(torch.tensor([False, True]), 10, torch.Generator())
