from __future__ import annotations

import numpy as np
import pytest
import torch

from cmpolicy.datasets import REWARDS, TransitionDataset, transform_rewards
from cmpolicy.errors import InputError


@pytest.fixture
def dataset() -> TransitionDataset:
    """Two episodes that return 3 and 7, the second cut by a timeout after that."""
    return TransitionDataset.from_arrays(
        observations=torch.arange(6.0)[:, None],
        actions=torch.zeros(6, 1),
        rewards=[1, 2, 3, 4, 50, 60],
        terminals=[0, 1, 0, 0, 0, 0],
        timeouts=[0, 0, 0, 0, 1, 0],
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [1.0, 2.0, 3.0, 4.0]),
        ("normalize", [-1.161895, -0.3872983, 0.3872983, 1.161895]),  # std over n - 1
        ("iql_locomotion", [250.0, 500.0, 750.0, 1000.0]),
        ("iql_antmaze", [0.0, 1.0, 2.0, 3.0]),
        ("cql_antmaze", [2.0, 6.0, 10.0, 14.0]),
    ],
)
def test_by_hand(dataset, name, expected):
    transformed = transform_rewards(dataset, name)
    torch.testing.assert_close(transformed.rewards, torch.tensor(expected))
    assert transformed.info == dataset.info
    assert dataset.rewards.tolist() == [1, 2, 3, 4]  # untouched
    assert torch.equal(transformed.terminals, dataset.terminals)


def test_every_transform_is_tested():
    assert set(REWARDS) == {"none", "normalize", "iql_locomotion", "iql_antmaze", "cql_antmaze"}


def test_what_cannot_be_scaled_is_refused(dataset):
    with pytest.raises(InputError, match="no reward transform 'log', expected one of none, norm"):
        transform_rewards(dataset, "log")
    flat = dataset.replace(rewards=torch.ones(4))
    with pytest.raises(InputError, match="all rewards are equal"):
        transform_rewards(flat, "normalize")
    with pytest.raises(InputError, match="all episodes return the same"):
        transform_rewards(flat, "iql_locomotion")


def test_one_absurd_return_does_not_shrink_all_rewards():
    rewards = np.arange(20.0)
    one = np.ones((20, 1))
    usual, spoilt = (
        TransitionDataset.from_arrays(one, one, values, np.ones(20))
        for values in (rewards, np.append(rewards[:-1], 1e9))
    )
    scaled = [transform_rewards(data, "iql_locomotion").rewards[1] for data in (usual, spoilt)]
    assert float(scaled[0]) == pytest.approx(1000 / 19)
    assert float(scaled[1]) == pytest.approx(1000 / 18)
