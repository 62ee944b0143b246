"""Diffusion-QL: its target, its guidance through every step of the sampler, and a bandit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cmpolicy.agents import DiffusionQL, Spaces
from cmpolicy.agents.diffusion_ql import DiffusionQLConfig
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.policy.diffusion_policy import DiffusionPolicy, DiffusionPolicyConfig
from cmpolicy.toys.dataset import Bandit, find_toy

OBS_DIM, ACTION_DIM = 3, 2
SPACES = Spaces(OBS_DIM, [-1.0, -1.0], [1.0, 1.0])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(spaces: Spaces = SPACES, total: int = 100, **kwargs: Any) -> DiffusionQL:
    """A small agent whose target critics have weights of their own."""
    policy = DiffusionPolicyConfig(hidden=[16, 16])
    config = DiffusionQLConfig(policy=policy, **({"critic_hidden": [16, 16]} | kwargs))
    agent = DiffusionQL(spaces, config, total)
    with torch.no_grad():
        for p in agent.target_critic.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return agent


def steps(count: int = 40) -> TransitionDataset:
    """Random steps, every third of which ends an episode."""
    rng = np.random.default_rng(0)
    return TransitionDataset.from_arrays(
        rng.normal(2, 3, size=(count, OBS_DIM)),
        rng.uniform(-1, 1, size=(count, ACTION_DIM)),
        rng.normal(size=count),
        np.arange(count) % 3 == 2,
    )


@pytest.mark.parametrize("draws", [1, 10])
def test_the_critics_loss_equals_one_computed_step_by_step(draws: int) -> None:
    agent, data = build(discount=0.9, max_q_backup=draws > 1), steps()
    batch = agent.prepare(data).transitions
    rng = torch.get_rng_state()
    loss, _ = agent.critic_loss(batch)
    torch.set_rng_state(rng)
    with torch.no_grad():
        obs = batch.next_observations.repeat_interleave(draws, dim=0)
        actions = agent.average_policy(obs).view(len(data), draws, ACTION_DIM)
    total = 0.0
    for i in range(len(data)):
        best = [-np.inf, -np.inf]
        for action in actions[i]:
            q = agent.target_critic(batch.next_observations[i : i + 1], action[None])[:, 0]
            best = [max(pair) for pair in zip(best, q.tolist(), strict=True)]
        y = float(batch.rewards[i]) + (0.0 if batch.terminals[i] else 0.9 * min(best))
        q = agent.critic(batch.observations[i : i + 1], batch.actions[i : i + 1])[:, 0]
        total += sum((member - y) ** 2 for member in q.tolist())
    assert float(loss.detach()) == pytest.approx(total / len(data), rel=1e-4)


def test_either_critic_guides_by_the_size_of_the_other() -> None:
    agent, data = build(eta=0.7), steps()
    batch = agent.prepare(data).transitions
    rng = torch.get_rng_state()
    loss, _ = agent.actor_loss(batch)
    torch.set_rng_state(rng)
    denoising = agent.policy.loss(batch.observations, batch.actions)
    first, second = agent.critic(batch.observations, agent.policy(batch.observations))
    coin = [-first.mean() / second.abs().mean(), -second.mean() / first.abs().mean()]
    expected = denoising + 0.7 * (coin[0] + coin[1]) / 2
    torch.testing.assert_close(loss, expected)


def test_the_guidance_runs_through_all_steps_of_the_sampler() -> None:
    """Its gradient is that of a finite difference, which a chain cut anywhere would not give."""
    agent = build().double()
    obs, noise = torch.randn(8, OBS_DIM).double(), 0.1 * torch.randn(8, ACTION_DIM).double()

    def q() -> torch.Tensor:
        return agent.critic(obs, agent.policy(obs, noise=noise)).mean()  # type: ignore[no-any-return]

    weight = agent.policy.network.layers[0].weight  # type: ignore[union-attr]
    assert isinstance(weight, torch.nn.Parameter)
    (gradient,) = torch.autograd.grad(q(), weight)
    direction, h = torch.randn_like(weight), 1e-6
    with torch.no_grad():
        weight.add_(h * direction)
        above = q()
        weight.sub_(2 * h * direction)
        below = q()
    slope = float((above - below) / (2 * h))
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4)


def test_five_network_calls_an_action() -> None:
    agent = build(candidates=1)
    assert isinstance(agent.average_policy, DiffusionPolicy)
    calls = []
    agent.average_policy.network.register_forward_pre_hook(lambda _, args: calls.append(args))
    agent.act(np.zeros((3, OBS_DIM), np.float32))
    assert len(calls) == 5


def test_a_loss_moves_its_own_network() -> None:
    agent, data = build(), steps()
    batch = agent.prepare(data).transitions
    for name, loss in (("critic", agent.critic_loss), ("policy", agent.actor_loss)):
        before = {key: value.clone() for key, value in agent.state_dict().items()}
        agent.minimize(name, loss, batch)
        now = agent.state_dict()
        assert {k.split(".")[0] for k in before if not torch.equal(before[k], now[k])} == {name}


@pytest.mark.parametrize(
    ("key", "value"),
    [("eta", -1.0), ("discount", 1.0), ("tau", 0.0), ("candidates", 0), ("critic_activation", "x")],
)
def test_values_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        DiffusionQLConfig(**{key: value})


@pytest.mark.slow
def test_guidance_moves_it_to_the_better_mode() -> None:
    toy = find_toy("bandit")
    assert isinstance(toy, Bandit)
    found = []
    for eta in (0.0, 3.0):
        agent = build(
            Spaces(1, [-1.0], [1.0]),
            eta=eta,
            candidates=1,
            learning_rate=2e-3,
            critic_learning_rate=3e-3,
            ema_decay=0.99,
        )
        data = agent.prepare(toy.transitions(5000, torch.Generator().manual_seed(0)))
        for _ in range(500):
            agent.update(data.sample(256))
        actions = torch.from_numpy(agent.act(np.zeros((2000, 1), np.float32)))
        found.append((float(toy.mass(actions)[toy.best]), float(toy.reward(actions).mean())))
    assert 0.15 < found[0][0] < 0.45
    assert found[1][0] > found[0][0] + 0.2
    assert found[1][1] > found[0][1] + 0.1
