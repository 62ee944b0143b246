"""Consistency behaviour cloning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmpolicy.agents import ConsistencyBC, Spaces
from cmpolicy.agents.bc import BCConfig
from cmpolicy.datasets.transitions import TransitionBatch, TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.policy.config import PolicyConfig


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def two_ways(count: int = 2000) -> TransitionDataset:
    """An expert that goes left or right of a line with equal chances: a = s ± 0.4."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-0.5, 0.5, size=(count, 1))
    actions = obs + rng.choice([-0.4, 0.4], size=(count, 1))
    return TransitionDataset.from_arrays(obs, actions, np.zeros(count), np.ones(count, bool))


def agent_for(total: int) -> ConsistencyBC:
    config = BCConfig(
        policy=PolicyConfig(hidden=[64, 64]), learning_rate=2e-3, weight_decay=0.1, ema_decay=0.99
    )
    return ConsistencyBC(Spaces(1, [-1.0], [1.0]), config, total)


def test_an_update_is_a_step_of_adamw_on_the_consistency_loss_alone() -> None:
    data, agent = two_ways(50), agent_for(10)
    agent.prepare(data)
    agent.step += 4
    batch = data.transitions
    weights = [p.detach().clone().requires_grad_() for p in agent.policy.network.parameters()]
    names = [name for name, _ in agent.policy.network.named_parameters()]
    rng = torch.get_rng_state()
    agent.update(batch)
    after = [p.detach().clone() for p in agent.policy.network.parameters()]

    torch.set_rng_state(rng)
    with torch.no_grad():
        for p, w in zip(agent.policy.network.parameters(), weights, strict=True):
            p.copy_(w)
    loss = agent.policy.loss(batch.observations, batch.actions, 0.4)
    gradients = torch.autograd.grad(loss, list(agent.policy.network.parameters()))
    rates = [2e-3 * (0.01 + 0.99 * (1 + np.cos(np.pi * k / 10)) / 2) for k in range(10)]
    decay = (1 - np.exp(-0.1 * 2e-3 / sum(rates))) / 2e-3  # e^−0.1 over all ten updates
    for name, weight, gradient, now in zip(names, weights, gradients, after, strict=True):
        # the first step of AdamW: m̂ / (√v̂ + 1e-8) = g / (|g| + 1e-8), and the weight's decay
        expected = weight - rates[4] * (gradient / (gradient.abs() + 1e-8) + decay * weight)
        torch.testing.assert_close(now, expected, msg=name, rtol=1e-5, atol=1e-6)


def test_rewards_and_what_comes_next_play_no_part() -> None:
    data = two_ways(50)
    t = data.transitions
    unused = [torch.full_like(column, torch.nan) for column in t[2:8]]
    spoiled = TransitionBatch(t.observations, t.actions, *unused, t.observations, t.actions)
    agent = agent_for(10)
    agent.prepare(data)
    assert torch.isfinite(agent.update(spoiled)["actor/consistency_loss"])
    assert all(torch.isfinite(p).all() for p in agent.parameters())


def test_it_has_no_critic() -> None:
    with pytest.raises(InputError, match="bc has no critic"):
        agent_for(10).act(np.zeros((2, 1), np.float32), best_of=4)


def test_it_acts_by_one_sample() -> None:
    """The densest of many behaviours' actions can be to stand still."""
    agent, nothing = agent_for(10), np.zeros((5, 1), np.float32)
    draws = [agent.act(nothing, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()


@pytest.mark.slow
def test_it_learns_both_ways_of_a_bimodal_expert() -> None:
    data, total = two_ways(), 1500
    agent = agent_for(total)
    agent.prepare(data)
    for _ in range(total):
        agent.update(data.sample(256))
    obs = np.linspace(-0.5, 0.5, 500, dtype=np.float32)[:, None]
    beside = agent.act(obs, steps=2, mode_of=1, generator=torch.Generator().manual_seed(0)) - obs
    assert 0.35 < (beside > 0).mean() < 0.65
    assert (np.abs(np.abs(beside) - 0.4) < 0.15).mean() > 0.65  # the best Gaussian: 0.36
