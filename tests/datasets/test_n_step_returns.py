from __future__ import annotations

import numpy as np
import pytest
import torch

from cmpolicy.datasets import TransitionDataset, n_step
from cmpolicy.datasets.n_step_returns import discounted_returns
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
