"""IQL with a consistency policy: expectiles, weights, which loss moves what, and a bandit."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from cmpolicy.agents import ConsistencyIQL, Spaces
from cmpolicy.agents.iql import IQLConfig, expectile_loss
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.policy.config import PolicyConfig
from cmpolicy.toys.dataset import Bandit, find_toy

OBS_DIM, ACTION_DIM = 3, 2
SPACES = Spaces(OBS_DIM, [-1.0, -1.0], [1.0, 1.0])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(spaces: Spaces = SPACES, total: int = 100, **kwargs: Any) -> ConsistencyIQL:
    """A small agent whose target critics have weights of their own."""
    plain: dict[str, Any] = {"return_range": 0.0, "critic_hidden": [16, 16]}
    config = IQLConfig(policy=PolicyConfig(hidden=[16, 16]), **(plain | kwargs))
    agent = ConsistencyIQL(spaces, config, total)
    with torch.no_grad():
        for p in agent.target_critic.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return agent


def episodes(count: int = 12) -> TransitionDataset:
    """Episodes of five steps; even ones are ended by the environment, odd ones by a timeout."""
    rng = np.random.default_rng(0)
    size = 5 * count
    last = np.arange(size) % 5 == 4
    terminals = last & (np.arange(size) // 5 % 2 == 0)
    return TransitionDataset.from_arrays(
        rng.normal(2, 3, size=(size, OBS_DIM)),
        rng.uniform(-1, 1, size=(size, ACTION_DIM)),
        rng.normal(size=size),
        terminals,
        last & ~terminals,
    )


# Expectiles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_the_expectile_loss_equals_its_formula(expectile: float) -> None:
    u = torch.tensor([-2.0, -0.5, 0.0, 0.25, 3.0], dtype=torch.float64)
    expected = [abs(expectile - (1.0 if x < 0 else 0.0)) * x**2 for x in u.tolist()]
    torch.testing.assert_close(expectile_loss(u, expectile), torch.tensor(expected).double())


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_its_minimum_is_the_expectile(expectile: float) -> None:
    """Where τ E[(x − m)₊] = (1 − τ) E[(m − x)₊]: Newey & Powell 1987."""
    x = np.random.default_rng(0).gamma(2.0, size=2000)
    loss = lambda m: float(expectile_loss(torch.from_numpy(x - m), expectile).mean())  # noqa: E731
    m = minimize_scalar(loss, bounds=(0, 10), method="bounded").x
    above, below = np.maximum(x - m, 0).mean(), np.maximum(m - x, 0).mean()
    assert expectile * above == pytest.approx((1 - expectile) * below, rel=1e-3)
    assert (m > x.mean()) == (expectile > 0.5) or m == pytest.approx(x.mean(), rel=1e-3)


def test_the_value_functions_loss_asks_for_an_expectile_of_the_targets() -> None:
    agent, batch = build(expectile=0.8), episodes().transitions
    q = agent.value(batch.observations, batch.actions)
    loss, metrics = agent.state_value_loss(batch, q)
    total = 0.0
    for i in range(len(q)):
        members = agent.target_critic(batch.observations[i : i + 1], batch.actions[i : i + 1])
        nothing = torch.zeros(1, 0)
        v = agent.state_critic(batch.observations[i : i + 1], nothing).item()
        u = min(members[:, 0].tolist()) - v
        total += (0.8 if u > 0 else 0.2) * u * u
    assert float(loss.detach()) == pytest.approx(total / len(q), rel=1e-4)
    assert float(metrics["value/loss"]) == float(loss.detach())


# Critics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
def test_the_critics_loss_equals_one_computed_step_by_step(steps: int) -> None:
    agent, gamma = build(discount=0.9, n_step=steps), 0.9
    recorded = episodes()
    batch = agent.prepare(recorded).transitions
    loss, _ = agent.critic_loss(batch)
    total = 0.0
    for t in range(len(recorded)):
        y, factor = 0.0, 1.0
        for last in range(t, t + steps):
            y += factor * float(recorded.rewards[last])
            factor *= gamma
            if recorded.episode_ends[last]:
                break
        if recorded.terminals[last] == 0:
            y += factor * agent.state_value(recorded.next_observations[last : last + 1]).item()
        q = agent.critic(recorded.observations[t : t + 1], recorded.actions[t : t + 1])
        total += sum((member - y) ** 2 for member in q[:, 0].tolist())
    assert float(loss.detach()) == pytest.approx(total / len(recorded), rel=1e-4)


def test_rewards_are_scaled_to_the_range_of_returns() -> None:
    data = episodes()
    agent = build(return_range=1000.0)
    agent.prepare(data)
    rewards = (data.rewards * agent.reward_scale).double()
    ends = torch.cat((torch.tensor([-1]), data.episode_ends.nonzero()[:, 0]))
    returns = [float(rewards[a + 1 : b + 1].sum()) for a, b in pairwise(ends)]
    assert max(returns) - min(returns) == pytest.approx(1000.0, rel=1e-4)
    equal = TransitionDataset.from_arrays(
        data.observations, data.actions, np.ones(len(data)), np.ones(len(data), bool)
    )
    agent.prepare(equal)
    assert float(agent.reward_scale) == 1.0  # no spread: left as they are


# The actor ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "max_weight"), [(1.0, 100.0), (30.0, 5.0), (1e6, 100.0)])
def test_the_actors_loss_is_weighted_by_clipped_advantages(
    temperature: float, max_weight: float
) -> None:
    agent = build(temperature=temperature, max_weight=max_weight)
    batch = episodes().transitions
    agent.step += 40
    v = agent.state_value(batch.observations).detach()
    q = v + torch.linspace(-1, 1, len(v))
    weights = [
        min(math.exp(min(temperature * (a - b), 700.0)), max_weight)
        for a, b in zip(q.tolist(), v.tolist(), strict=True)
    ]
    assert max(weights) == max_weight or temperature == 1.0
    rng = torch.get_rng_state()
    loss, metrics = agent.actor_loss(batch, q)
    torch.set_rng_state(rng)
    expected = agent.policy.loss(
        batch.observations, batch.actions, 0.4, torch.tensor(weights, dtype=torch.float32)
    )
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    assert float(metrics["actor/weight"]) == pytest.approx(np.mean(weights), rel=1e-3)
    clipped = np.mean([w == max_weight for w in weights])
    assert float(metrics["actor/clipped"]) == pytest.approx(clipped)


def test_no_action_is_sampled_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, data = build(), episodes()
    batch = agent.prepare(data).transitions

    def refuse(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("the policy was sampled")

    for policy in (agent.policy, agent.average_policy):
        monkeypatch.setattr(policy, "forward", refuse)
    agent.update(batch)
    assert all(torch.isfinite(p).all() for p in agent.parameters())


# Which loss moves which network ---------------------------------------------------------------


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor | None]:
    parameters = [p.requires_grad_() for p in module.parameters()]
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True))


@pytest.mark.parametrize("name", ["state_critic", "critic", "policy"])
def test_a_loss_reaches_one_network_alone(name: str) -> None:
    agent, data = build(), episodes()
    batch = agent.prepare(data).transitions
    with torch.no_grad():
        q = agent.value(batch.observations, batch.actions)
    loss = {
        "state_critic": lambda: agent.state_value_loss(batch, q),
        "critic": lambda: agent.critic_loss(batch),
        "policy": lambda: agent.actor_loss(batch, q),
    }[name]()[0]
    for other in ("state_critic", "critic", "policy", "target_critic", "average_policy"):
        found = gradients(loss, agent.get_submodule(other))
        reached = [g is not None and bool(g.abs().sum() > 0) for g in found]
        assert all(reached) if other == name else not any(reached)


# Configuration and learning -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expectile", 0.0),
        ("expectile", 1.0),
        ("discount", 1.0),
        ("tau", 0.0),
        ("temperature", -1.0),
        ("max_weight", 0.0),
        ("return_range", -1.0),
        ("n_step", 0),
        ("critic_activation", "gelu"),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        IQLConfig(**{key: value})


@pytest.mark.slow
def test_it_moves_to_the_better_mode_though_that_is_the_rarer_one() -> None:
    toy = find_toy("bandit")
    assert isinstance(toy, Bandit)
    found = []
    for temperature in (0.0, 10.0):
        agent = build(
            Spaces(1, [-1.0], [1.0]),
            total=400,
            temperature=temperature,
            learning_rate=2e-3,
            critic_learning_rate=3e-3,
            ema_decay=0.99,
            tau=0.05,
        )
        data = agent.prepare(toy.transitions(5000, torch.Generator().manual_seed(0)))
        for _ in range(400):
            agent.update(data.sample(256))
        actions = agent.act(np.zeros((2000, 1), np.float32), steps=2)
        found.append(float(toy.mass(torch.from_numpy(actions))[toy.best]))
    assert found[0] < 0.5  # the data's is 0.3: without weights it clones
    assert found[1] > 0.85
