"""Cloning on return-weighted data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmpolicy.agents import ConsistencyBC, Spaces, WeightedBC
from cmpolicy.agents.bc import BCConfig
from cmpolicy.agents.weighted_bc import WeightedBCConfig
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.policy.config import PolicyConfig

SPACES = Spaces(1, [-1.0], [1.0])
POLICY = PolicyConfig(hidden=[32, 32])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def good_and_bad(count: int = 500) -> TransitionDataset:
    """Episodes of two steps; one in five does a = 0.5 and earns 1 a step, the rest −0.5 and 0."""
    rng = np.random.default_rng(0)
    good = np.repeat(np.arange(count) % 5 == 0, 2)
    actions = np.where(good, 0.5, -0.5)[:, None] + rng.normal(0, 0.05, size=(2 * count, 1))
    observations, ends = rng.normal(size=(2 * count, 1)), np.arange(2 * count) % 2 == 1
    return TransitionDataset.from_arrays(observations, actions, good, ends)


def build(total: int = 100, **kwargs: float) -> WeightedBC:
    return WeightedBC(SPACES, WeightedBCConfig(policy=POLICY, **kwargs), total)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_actions_are_drawn_by_their_episodes_return(temperature: float) -> None:
    """A good one e^(1/α) times as often as a bad one, of which there are four times as many."""
    data = build(return_temperature=temperature).prepare(good_and_bad())
    imitated = data.sample(20_000).imitated_actions
    odds = np.exp(1 / temperature) / 4
    assert float((imitated > 0).float().mean()) == pytest.approx(odds / (1 + odds), abs=0.015)


def test_an_update_is_a_clones_on_what_was_drawn() -> None:
    weighted, data = build(), good_and_bad()
    batch = weighted.prepare(data).sample(64)
    plain = ConsistencyBC(SPACES, BCConfig(policy=POLICY), 100)
    plain.load_training_state(weighted.training_state())
    drawn = batch._replace(
        **{name: torch.full_like(column, torch.nan) for name, column in batch._asdict().items()
           if not name.startswith("imitated")}
    )  # fmt: skip
    rng = torch.get_rng_state()
    for agent in (weighted, plain):
        torch.set_rng_state(rng)
        agent.update(drawn)
    for key, value in weighted.state_dict().items():
        assert torch.equal(value, plain.state_dict()[key]), key


def test_it_acts_by_the_mode_and_has_no_critic() -> None:
    agent, observations = build(), np.zeros((4, 1), np.float32)
    mode = agent.average_policy.act(observations, mode_of=32)
    np.testing.assert_array_equal(agent.act(observations), mode)
    with pytest.raises(InputError, match="weighted_bc has no critic"):
        agent.act(observations, best_of=4)


@pytest.mark.parametrize("temperature", [0.0, -0.1])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="return_temperature > 0"):
        WeightedBCConfig(return_temperature=temperature)


@pytest.mark.slow
def test_it_imitates_good_episodes_though_they_are_few() -> None:
    found = []
    for temperature in (0.1, 100.0):
        options = {"learning_rate": 2e-3, "ema_decay": 0.99, "weight_decay": 0.0}
        agent = build(400, return_temperature=temperature, **options)
        data = agent.prepare(good_and_bad())
        for _ in range(400):
            agent.update(data.sample(128))
        actions = agent.act(np.random.default_rng(1).normal(size=(300, 1)).astype(np.float32))
        found.append(float(np.median(actions)))
    assert found == pytest.approx([0.5, -0.5], abs=0.2)
