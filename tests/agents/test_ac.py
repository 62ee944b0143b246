"""The default agent: its targets, the clone's weights, the actor's loss, and what it learns."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from cmpolicy.agents import ConsistencyAC, Spaces
from cmpolicy.agents.ac import ACConfig
from cmpolicy.datasets.transitions import TransitionBatch, TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.policy.config import PolicyConfig

OBS_DIM, ACTION_DIM, GAMMA, TOTAL = 3, 2, 0.9, 100
LOW, HIGH = np.array([-2.0, 0.0]), np.array([1.0, 5.0])
SPACES = Spaces(OBS_DIM, LOW.tolist(), HIGH.tolist())
HALF_RANGE = torch.tensor([1.5, 2.5])
WARM_UP, RAMP = 25, 10  # updates of TOTAL, by default
Array = npt.NDArray[np.float64]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(
    total: int = TOTAL, spaces: Spaces = SPACES, hidden: tuple[int, ...] = (16, 16), **kwargs: Any
) -> ConsistencyAC:
    """A small agent, all of whose networks have weights of their own."""
    plain: dict[str, Any] = {"discount": GAMMA, "return_temperature": 0.0}
    plain |= {"policy": PolicyConfig(hidden=[16, 16]), "critic_hidden": [*hidden]}
    agent = ConsistencyAC(spaces, ACConfig(**(plain | kwargs)), total)
    with torch.no_grad():
        for module in (agent.target_critic, agent.average_policy, agent.clone, agent.average_clone):
            for p in module.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return agent


def episodes(count: int = 6) -> TransitionDataset:
    """Episodes of five steps; even ones are ended by the environment, odd ones cut by a timeout."""
    rng = np.random.default_rng(0)
    last = np.arange(5) == 4
    parts = [
        SimpleNamespace(
            observations=rng.normal(2, 3, size=(6, OBS_DIM)),
            actions=rng.uniform(LOW, HIGH, size=(5, ACTION_DIM)),
            rewards=rng.normal(7, 3, size=5),
            terminations=last & (i % 2 == 0),
            truncations=last & (i % 2 == 1),
        )
        for i in range(count)
    ]
    return TransitionDataset.from_episodes(parts)  # type: ignore[arg-type]


def whole(data: TransitionDataset) -> TransitionBatch:
    """All transitions, in order."""
    return data.at(torch.arange(len(data)))


def walk(data: TransitionDataset, t: int) -> tuple[float, float, int]:
    """From t to the end of its episode: its return, γ^k for k steps, its last transition."""
    total, factor = 0.0, 1.0
    for last in range(t, len(data)):
        total += factor * float(data.rewards[last])
        factor *= GAMMA
        if data.episode_ends[last]:
            break
    return total, factor, last


# Targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, WARM_UP - 1])
def test_in_the_warm_up_a_target_is_a_walk_to_the_episodes_end(step: int) -> None:
    """Beyond a timeout it goes on with the critics' value; beyond a terminal there is nothing."""
    agent, recorded = build(), episodes()
    data = agent.prepare(recorded)
    agent.step.fill_(step)
    rng = torch.get_rng_state()
    y = agent.target(whole(data))
    torch.set_rng_state(rng)
    walks = [walk(recorded, t) for t in range(len(recorded))]
    after = recorded.next_observations[[last for _, _, last in walks]]
    with torch.no_grad():
        values = agent.target_critic(after, agent.average_policy(after)).amin(0)
    expected = [
        float(agent.reward_scale) * total
        + (0.0 if recorded.terminals[last] else factor * float(value))
        for (total, factor, last), value in zip(walks, values, strict=True)
    ]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert not y.requires_grad
    assert recorded.terminals.sum() == 3
    assert recorded.episode_ends.sum() == 6


@pytest.mark.parametrize("step", [WARM_UP, WARM_UP + 1, TOTAL])
def test_after_it_a_target_looks_one_step_ahead(step: int) -> None:
    agent, recorded = build(), episodes()
    data = agent.prepare(recorded)
    agent.step.fill_(step)
    rng = torch.get_rng_state()
    loss, metrics = agent.critic_loss(whole(data))
    torch.set_rng_state(rng)
    after = recorded.next_observations
    with torch.no_grad():
        values = agent.target_critic(after, agent.average_policy(after)).tolist()
        q = agent.critic(recorded.observations, recorded.actions).tolist()
    total = 0.0
    for t in range(len(recorded)):
        y = float(agent.reward_scale) * float(recorded.rewards[t])
        if not recorded.terminals[t]:
            y += GAMMA * min(member[t] for member in values)
        total += sum((member[t] - y) ** 2 for member in q)
    assert float(loss.detach()) == pytest.approx(total / len(recorded), rel=1e-4)
    assert float(metrics["critic/loss"]) == float(loss.detach())


@pytest.mark.parametrize(
    ("step", "strength"), [(0, 0), (WARM_UP, 0), (30, 0.5), (WARM_UP + RAMP, 1), (TOTAL, 1)]
)
def test_guidance_and_weights_rise_after_the_warm_up(step: int, strength: float) -> None:
    agent = build()
    agent.step.fill_(step)
    assert float(agent.strength) == pytest.approx(strength, abs=1e-6)


def test_values_have_a_spread_of_one_and_begin_at_their_mean() -> None:
    recorded = episodes()
    returns = np.array([walk(recorded, t)[0] for t in range(len(recorded))])
    agent = build()
    before = agent.critic(recorded.observations, recorded.actions)
    agent.prepare(recorded)
    for critic in (agent.critic, agent.target_critic):
        assert float(critic.value_mean) == pytest.approx(returns.mean() / returns.std(), rel=1e-5)
    assert float(agent.reward_scale) == pytest.approx(1 / returns.std(), rel=1e-5)
    other = build()
    other.load_training_state(agent.training_state())
    assert torch.equal(other.critic.value_mean, agent.critic.value_mean)
    assert not torch.equal(agent.critic(recorded.observations, recorded.actions), before)


def test_the_unit_of_rewards_does_not_matter() -> None:
    recorded, actions = episodes(), []
    for unit in (1.0, 1024.0):  # a power of two, which changes no rounding
        torch.manual_seed(0)
        agent = build(20)
        data = agent.prepare(recorded.replace(rewards=unit * recorded.rewards))
        for _ in range(15):
            agent.update(data.sample(16))
        actions.append(agent.policy.act(recorded.observations.numpy(), mode_of=4))
    np.testing.assert_array_equal(*actions)


# The clone ------------------------------------------------------------------------------------


def weights_by_hand(agent: ConsistencyAC, batch: TransitionBatch, rng: Tensor) -> Array:
    """exp(min(β A/RMS(A), 3)) over its mean, with the two draws that follow `rng`."""
    torch.set_rng_state(rng)
    observations = batch.imitated_observations
    with torch.no_grad():
        own = [agent.average_clone(observations) for _ in range(2)]
        recorded, *drawn = (
            agent.critic(observations, a).double().numpy().mean(0)
            for a in (batch.imitated_actions, *own)
        )
    advantage = recorded - (drawn[0] + drawn[1]) / 2
    strength = min(max((int(agent.step) - WARM_UP) / RAMP, 0.0), 1.0)
    exponent = agent.config.advantage_weight * strength * advantage
    weights = np.exp(np.minimum(exponent / np.sqrt(np.mean(advantage**2)), 3.0))
    return weights / weights.mean()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("step", "beta"), [(30, 1.0), (TOTAL, 1.0), (TOTAL, 0.3), (TOTAL, 20.0)])
def test_advantages_weigh_what_is_imitated(step: int, beta: float) -> None:
    agent = build(advantage_weight=beta)
    data = agent.prepare(episodes())
    agent.step.fill_(step)
    index = torch.arange(len(data))
    batch = data.at(index, index.flip(0))._replace(observations=torch.tensor(torch.nan))
    rng = torch.get_rng_state()
    weights = agent.advantage_weights(batch)
    expected = weights_by_hand(agent, batch, rng)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
    assert float(weights.mean()) == pytest.approx(1.0, rel=1e-5)
    assert (weights == weights.max()).sum() > 1 if beta == 20.0 else weights.std() > 0.1


@pytest.mark.parametrize(("step", "beta"), [(0, 1.0), (WARM_UP, 1.0), (TOTAL, 0.0)])
def test_without_them_all_weigh_alike(step: int, beta: float) -> None:
    agent = build(advantage_weight=beta)
    data = agent.prepare(episodes())
    agent.step.fill_(step)
    assert torch.equal(agent.advantage_weights(whole(data)), torch.ones(len(data)))


def test_the_clones_loss_is_the_weighted_consistency_loss() -> None:
    agent = build()
    data = agent.prepare(episodes())
    agent.step.fill_(TOTAL)
    batch = whole(data)
    rng = torch.get_rng_state()
    loss, metrics = agent.clone_loss(batch)
    weights = torch.from_numpy(weights_by_hand(agent, batch, rng)).float()
    expected = agent.clone.loss(batch.observations, batch.actions, 1.0, weights)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    share = float(weights.sum() ** 2 / (weights**2).sum()) / len(weights)
    assert float(metrics["clone/effective_share"]) == pytest.approx(share, rel=1e-4)
    assert 0.1 < share < 0.95


def test_good_episodes_are_imitated_and_all_are_judged() -> None:
    data = episodes()
    ends, best = data.episode_ends, int(data.episode_returns().argmax())
    of_best = data.actions[ends.cumsum(0) - ends.long() == best]
    batch = build(return_temperature=0.003).prepare(data).sample(400)
    assert set(batch.imitated_actions[:, 0].tolist()) == set(of_best[:, 0].tolist())
    assert set(batch.actions[:, 0].tolist()) == set(data.actions[:, 0].tolist())
    alike = build(return_temperature=0.0).prepare(data).sample(400)
    assert alike.imitated_actions is alike.actions


@pytest.mark.parametrize("copied", ["average", "target"])
def test_the_clones_average_and_its_target_follow_it(copied: str) -> None:
    """The target is that of a loss that has one, and has a rate of its own."""
    policy = PolicyConfig(hidden=[16], loss="ct", loss_options={"fixed_decay": 0.7})
    agent = build(ema_decay=0.9, policy=policy)
    data = agent.prepare(episodes())
    agent.step.fill_(3)
    network = {"average": agent.average_clone.network, "target": agent.clone.target_network}[copied]
    decay = {"average": (1 + 3) / (10 + 3), "target": 0.7}[copied]
    assert network is not None
    before = [p.clone() for p in network.parameters()]
    agent.update(whole(data))
    for old, now, p in zip(
        before, network.parameters(), agent.clone.network.parameters(), strict=True
    ):
        torch.testing.assert_close(now, decay * old + (1 - decay) * p, rtol=1e-5, atol=1e-6)


# The actor ------------------------------------------------------------------------------------


def test_the_actor_begins_as_the_clone_and_has_a_rate_of_its_own() -> None:
    config = ACConfig(learning_rate=0.1, actor_learning_rate=0.2, critic_learning_rate=0.3)
    agent = ConsistencyAC(SPACES, config, TOTAL)
    assert agent.learning_rates == {"clone": 0.1, "policy": 0.2, "critic": 0.3}
    for name, value in agent.policy.state_dict().items():
        for other in (agent.clone, agent.average_clone, agent.average_policy):
            assert torch.equal(other.state_dict()[name], value)


@pytest.mark.parametrize(("step", "strength"), [(10, 0.0), (30, 0.5), (TOTAL, 1.0)])
@pytest.mark.parametrize("radius", [0.1, 0.5])
def test_the_actor_is_pulled_to_the_clone_and_along_the_gradient_of_q(
    step: int, strength: float, radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """∂L/∂a = ((a − μ̄)/h² − r g/(E‖g‖ h))/B with g = h ∇_a Q."""
    agent = build(radius=radius)
    data = agent.prepare(episodes())
    agent.step.fill_(step)
    batch, noises = whole(data), []
    actions = batch.actions.flip(0).clone().requires_grad_()

    def act(observations: Tensor, *, noise: Tensor) -> Tensor:
        noises.append(noise)
        return actions

    monkeypatch.setattr(agent.policy, "forward", act)
    loss, metrics = agent.actor_loss(batch)
    (gradient,) = torch.autograd.grad(loss, actions)

    with torch.no_grad():
        anchor = agent.average_clone(batch.observations, noise=noises[0])
    q = agent.critic(batch.observations, actions).mean(0)
    slope = torch.autograd.grad(q.sum(), actions)[0] * HALF_RANGE
    unit = slope.square().sum(1).sqrt().mean()
    move = (actions.detach() - anchor) / HALF_RANGE
    expected = (move / HALF_RANGE - radius * strength * slope / (unit * HALF_RANGE)) / len(data)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
    assert float(metrics["actor/move"]) == pytest.approx(float(move.norm(dim=1).mean()), rel=1e-5)
    assert float(metrics["actor/q"]) == pytest.approx(float(q.detach().mean()), rel=1e-5)
    assert float(metrics["actor/q_slope"]) == pytest.approx(float(unit), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 2])
def test_actor_and_clone_act_by_the_same_noise(steps: int) -> None:
    agent = build(policy=PolicyConfig(hidden=[16], steps=steps))
    data = agent.prepare(episodes())
    agent.average_clone.load_state_dict(agent.policy.state_dict())
    assert float(agent.actor_loss(whole(data))[0].detach()) == 0.0
    observations = data.observations.numpy()
    agent.act(observations, steps=steps)
    with pytest.raises(InputError, match=f"to act by {steps} network calls?, got 3"):
        agent.act(observations, steps=3)


@pytest.mark.parametrize("name", ["critic", "clone", "policy"])
def test_a_step_on_a_loss_moves_one_network(name: str) -> None:
    agent = build()
    batch = whole(agent.prepare(episodes()))
    agent.step.fill_(TOTAL)
    losses = {"critic": agent.critic_loss, "clone": agent.clone_loss, "policy": agent.actor_loss}
    before = {key: value.clone() for key, value in agent.state_dict().items()}
    agent.minimize(name, losses[name], batch)
    now = agent.state_dict()
    assert {k.split(".")[0] for k in before if not torch.equal(before[k], now[k])} == {name}
    others = [p for other, module in agent.named_children() if other != name
              for p in module.parameters()]  # fmt: skip
    assert all(p.grad is None for p in others)


@pytest.mark.parametrize(("unit", "shift", "tolerance"), [(8.0, 0.0, 0.0), (10.0, 5.0, 1e-3)])
def test_the_unit_of_actions_does_not_matter(unit: float, shift: float, tolerance: float) -> None:
    """To the bit for a power of two, which changes no rounding."""
    recorded, acted = episodes(), []
    for scale, offset in ((1.0, 0.0), (unit, shift)):
        torch.manual_seed(0)
        agent = build(20, Spaces(OBS_DIM, *((scale * b + offset).tolist() for b in (LOW, HIGH))))
        columns = recorded.transitions._replace(actions=scale * recorded.actions + offset)
        data = agent.prepare(TransitionDataset(columns, recorded.episode_ends, recorded.info))
        for _ in range(15):
            agent.update(data.sample(16))
        actions = agent.policy.act(recorded.observations.numpy(), mode_of=4)
        acted.append((actions - offset) / scale)
    np.testing.assert_allclose(acted[0], acted[1], rtol=0, atol=tolerance)


# Learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [3, 12])
def test_it_goes_on_bit_for_bit(at: int) -> None:
    """From a state in the warm-up, and from one after it."""
    agent = build(20)
    data = agent.prepare(episodes())
    for _ in range(at):
        agent.update(data.sample(16))
    other = build(20)
    other.load_training_state(copy.deepcopy(agent.training_state()))
    rng = torch.get_rng_state()
    for one in (agent, other):
        torch.set_rng_state(rng)
        for _ in range(5):
            one.update(data.sample(16))
    for key, value in agent.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("actor_learning_rate", 0.0),
        ("learning_rate", 0.0),
        ("ramp", 0.0),
        ("warm_up", -0.1),
        ("warm_up", 1.0),
        ("radius", -0.1),
        ("advantage_weight", -1.0),
        ("return_temperature", -0.1),
        ("weight_decay", -0.1),
        ("n_step", 2),
        ("discount", 1.0),
        ("tau", 0.0),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        ACConfig(**{key: value})


BEST = np.array([0.5, -0.5])


def bandit(count: int = 2000) -> TransitionDataset:
    """One step, actions all over, reward −|a − BEST|²."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, size=(count, ACTION_DIM))
    rewards = -np.square(actions - BEST).sum(1)
    return TransitionDataset.from_arrays(
        rng.normal(size=(count, OBS_DIM)), actions, rewards, np.ones(count, bool)
    )


@pytest.mark.slow
def test_weights_bring_the_clone_nearer_to_the_best_action_and_guidance_the_actor() -> None:
    data, distances = bandit(), []
    for beta in (0.0, 2.0):
        agent = build(
            400, Spaces(OBS_DIM, [-1.0] * 2, [1.0] * 2), (32, 32), ema_decay=0.99,
            advantage_weight=beta, radius=0.3, actor_learning_rate=3e-3, critic_learning_rate=3e-3,
        )  # fmt: skip
        training = agent.prepare(data)
        for _ in range(400):
            agent.update(training.sample(128))
        for policy in (agent.average_clone, agent.average_policy):
            actions = policy.act(data.observations[:500].numpy())
            distances.append(np.linalg.norm(actions - BEST, axis=1).mean())
    clone, guided, weighted, both = distances
    assert guided < clone - 0.2
    assert weighted < clone - 0.08
    assert both < weighted - 0.2
