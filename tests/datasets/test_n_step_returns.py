from __future__ import annotations

import numpy as np
import pytest
import torch

from cmpolicy.datasets import TransitionDataset, n_step
from cmpolicy.datasets.n_step_returns import discounted_returns, with_returns
from cmpolicy.errors import InputError


def test_n_step_transitions_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    n, gamma, steps = 40, 0.9, 4
    terminals, timeouts = np.zeros(n, bool), np.zeros(n, bool)
    terminals[[9, 30]] = True
    timeouts[[17]] = True
    observations = rng.normal(size=(n, 2)).astype(np.float32)
    dataset = TransitionDataset.from_arrays(
        observations, rng.normal(size=(n, 1)), rng.normal(size=n), terminals, timeouts
    )
    long = n_step(dataset, steps, gamma)
    ends = dataset.episode_ends.numpy()
    for t in range(len(dataset)):
        reward, i = 0.0, t
        for k in range(steps):
            i = t + k
            reward += gamma**k * float(dataset.rewards[i])
            if ends[i]:
                break
        bootstrap = gamma ** (i - t) * (1 - float(dataset.terminals[i]))
        assert float(long.rewards[t]) == pytest.approx(reward, abs=1e-5)
        assert 1 - float(long.terminals[t]) == pytest.approx(bootstrap, abs=1e-6)
        assert torch.equal(long.next_observations[t], dataset.next_observations[i])
    assert torch.equal(long.observations, dataset.observations)


def test_one_step_transitions_are_the_transitions() -> None:
    dataset = TransitionDataset.from_arrays(
        np.ones((5, 2)), np.ones((5, 1)), np.arange(5.0), [0, 0, 1, 0, 0]
    )
    for one, other in zip(n_step(dataset, 1, 0.99).transitions, dataset.transitions, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(InputError, match="at least 1"):
        n_step(dataset, 0, 0.99)


@pytest.mark.parametrize("lengths", [[5], [1, 1, 1], [3, 8, 1, 17, 2], [64, 33]])
def test_discounted_returns_equal_a_walk_from_behind(lengths):
    ends = np.isin(np.arange(sum(lengths)), np.cumsum(lengths) - 1)
    rng = np.random.default_rng(0)
    data = TransitionDataset.from_arrays(
        rng.normal(size=(len(ends), 2)),
        np.zeros((len(ends), 1)),
        rng.normal(size=len(ends)),
        ends,
        next_observations=np.zeros((len(ends), 2)),
    )
    following, expected = 0.0, []
    for reward, end in reversed(list(zip(data.rewards, data.episode_ends, strict=True))):
        following = float(reward) + (0.0 if end else 0.9 * following)
        expected.append(following)
    found = discounted_returns(data.rewards, data.episode_ends, 0.9)
    torch.testing.assert_close(found, torch.tensor(expected[::-1]))


def test_returns_to_the_end_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    n, gamma = 40, 0.9
    terminals, timeouts = np.zeros(n, bool), np.zeros(n, bool)
    terminals[[9, 30]] = True
    timeouts[[17]] = True
    dataset = TransitionDataset.from_arrays(
        rng.normal(size=(n, 2)), rng.normal(size=(n, 1)), rng.normal(size=n), terminals, timeouts
    )
    far = with_returns(dataset, gamma)
    ends = dataset.episode_ends.numpy()
    index = torch.tensor(rng.integers(len(dataset), size=(3, 50)))  # of any shape, as `at` takes it
    batch = far.at(index)
    for place, t in zip(np.ndindex(3, 50), index.flatten().tolist(), strict=True):
        total, i = 0.0, t
        while True:
            total += gamma ** (i - t) * float(dataset.rewards[i])
            if ends[i]:
                break
            i += 1
        bootstrap = gamma ** (i - t) * (1 - float(dataset.terminals[i]))
        assert float(batch.returns[place]) == pytest.approx(total, abs=1e-5)
        assert 1 - float(batch.final_terminals[place]) == pytest.approx(bootstrap, abs=1e-6)
        assert torch.equal(batch.final_observations[place], dataset.next_observations[i])
    one_step = dataset.at(index)
    for name in ("observations", "actions", "rewards", "next_observations", "terminals"):
        assert torch.equal(getattr(batch, name), getattr(one_step, name))
    assert ends.sum() == 4


def test_without_returns_a_batch_looks_one_step_ahead() -> None:
    dataset = TransitionDataset.from_arrays(
        np.ones((5, 2)), np.ones((5, 1)), np.arange(5.0), [0, 0, 1, 0, 0]
    )
    batch = dataset.at(torch.tensor([0, 1, 2]))
    assert batch.returns is batch.rewards
    assert batch.final_observations is batch.next_observations
    assert batch.final_terminals is batch.terminals


def test_returns_outlive_what_a_dataset_becomes() -> None:
    rng = np.random.default_rng(0)
    dataset = TransitionDataset.from_arrays(
        rng.normal(size=(9, 2)), rng.normal(size=(9, 1)), rng.normal(size=9), np.arange(9) % 3 == 2
    )
    far = with_returns(dataset, 0.9).weighted_by_return(0.5)
    index = torch.arange(len(dataset))
    expected = far.at(index)
    for one in (far.to("cpu"), far.at_return_temperature(0.1)):
        for name in ("returns", "final_observations", "final_terminals"):
            assert torch.equal(getattr(one.at(index), name), getattr(expected, name))
    other = far.replace(rewards=-far.rewards)  # of which the returns are not known yet
    assert torch.equal(other.at(index).returns, -far.rewards)
