"""Consistency-AC as published: its target, its two losses, what they move, candidates."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmpolicy.agents import DingJinAC, Spaces
from cmpolicy.agents.ding_jin import DingJinACConfig
from cmpolicy.datasets.transitions import TransitionBatch, TransitionDataset
from cmpolicy.policy.config import PolicyConfig

OBS_DIM, ACTION_DIM = 3, 2
SPACES = Spaces(OBS_DIM, [-1.0, -1.0], [1.0, 1.0])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(total: int = 100, hidden: tuple[int, ...] = (16, 16), **kwargs: Any) -> DingJinAC:
    """A small agent, whose critics and targets have weights of their own."""
    policy = PolicyConfig(hidden=[16, 16])
    config = DingJinACConfig(policy=policy, critic_hidden=list(hidden), **kwargs)
    agent = DingJinAC(SPACES, config, total)
    with torch.no_grad():
        for p in agent.target_critic.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return agent


def episodes(count: int = 6) -> TransitionDataset:
    """Episodes of five steps; even ones are ended by the environment, odd ones cut by a timeout."""
    rng = np.random.default_rng(0)
    parts = [
        SimpleNamespace(
            observations=rng.normal(2, 3, size=(6, OBS_DIM)),
            actions=rng.uniform(-1, 1, size=(5, ACTION_DIM)),
            rewards=rng.normal(size=5),
            terminations=(np.arange(5) == 4) & (i % 2 == 0),
            truncations=(np.arange(5) == 4) & (i % 2 == 1),
        )
        for i in range(count)
    ]
    return TransitionDataset.from_episodes(parts)  # type: ignore[arg-type]


def target_by_hand(
    agent: DingJinAC, batch: TransitionBatch, actions: Tensor
) -> np.ndarray[Any, Any]:
    """y one transition at a time; `actions` (B, draws, action_dim) are the draws of π'(s')."""
    y = np.zeros(len(batch.rewards))
    for i in range(len(y)):
        values = []
        for action in actions[i]:
            q = agent.target_critic(batch.next_observations[i : i + 1], action[None])[:, 0]
            values.append([float(member) for member in q])
        best_of_each_member = [max(draw[e] for draw in values) for e in range(len(values[0]))]
        y[i] = float(batch.rewards[i])
        if batch.terminals[i] == 0:
            y[i] += agent.config.discount * min(best_of_each_member)
    return y


def loss_by_hand(agent: DingJinAC, batch: TransitionBatch, y: np.ndarray[Any, Any]) -> float:
    """The sum over members of the mean squared distance to `y`."""
    q = agent.critic(batch.observations, batch.actions).detach().double().numpy()
    return float(sum(np.mean((member - y) ** 2) for member in q))


# The target -----------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [1, 10])
@pytest.mark.parametrize("ensemble", [1, 2, 4])
def test_the_critics_loss_equals_one_computed_step_by_step(draws: int, ensemble: int) -> None:
    agent = build(max_q_backup=draws > 1, critic_ensemble=ensemble, discount=0.9)
    data = episodes()
    agent.prepare(data)
    batch = data.transitions
    assert batch.terminals.sum() == 3
    assert data.episode_ends.sum() == 6  # so three ends are timeouts, which bootstrap
    rng = torch.get_rng_state()
    loss, metrics = agent.critic_loss(batch)

    torch.set_rng_state(rng)
    obs = batch.next_observations.repeat_interleave(draws, dim=0)
    with torch.no_grad():
        actions = agent.average_policy(obs).view(len(data), draws, ACTION_DIM)
        y = target_by_hand(agent, batch, actions)
    assert float(loss.detach()) == pytest.approx(loss_by_hand(agent, batch, y), rel=1e-4)
    assert float(metrics["critic/loss"]) == float(loss.detach())
    wrong = y.copy()
    wrong[batch.terminals == 1] += 0.9  # the test would see a target that ignores terminals
    assert float(loss.detach()) != pytest.approx(loss_by_hand(agent, batch, wrong), rel=1e-3)


def test_a_terminal_is_worth_its_reward_whatever_comes_after() -> None:
    agent, data = build(), episodes()
    batch = data.transitions._replace(terminals=torch.ones(len(data)))
    with torch.no_grad():
        for p in agent.target_critic.parameters():
            p.fill_(1e3)
    expected = loss_by_hand(agent, batch, batch.rewards.double().numpy())
    assert float(agent.critic_loss(batch)[0].detach()) == pytest.approx(expected, rel=1e-4)


def test_values_of_terminal_steps_converge_to_their_rewards() -> None:
    data = episodes()
    agent = build(600, (64, 64), critic_learning_rate=3e-3)
    agent.prepare(data)
    batch = data.transitions._replace(terminals=torch.ones(len(data)))
    for _ in range(300):
        agent.minimize("critic", agent.critic_loss, batch)
    q = agent.critic(batch.observations, batch.actions)
    torch.testing.assert_close(q, batch.rewards.expand_as(q), rtol=0, atol=0.05)


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_targets_over_n_steps_equal_a_walk_along_the_episode(steps: int) -> None:
    agent, gamma = build(n_step=steps, discount=0.9), 0.9
    recorded = episodes()
    data = agent.prepare(recorded)
    assert torch.equal(data.observations, recorded.observations)
    bootstraps = []
    for t in range(len(recorded)):
        reward, factor, last = 0.0, 1.0, t
        for last in range(t, t + steps):
            reward += factor * float(recorded.rewards[last])
            factor *= gamma
            if recorded.episode_ends[last]:  # nothing is summed across episodes
                break
        bootstraps.append((reward, factor * (1 - float(recorded.terminals[last])), last))
    lasts = [last for _, _, last in bootstraps]
    rng = torch.get_rng_state()
    y = agent.target(data.transitions)
    torch.set_rng_state(rng)
    value = agent.next_value(recorded.next_observations[lasts])
    expected = [r + f * float(v) for (r, f, _), v in zip(bootstraps, value.detach(), strict=True)]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert not y.requires_grad


def test_rewards_are_not_scaled() -> None:
    data = episodes()
    data = data.replace(rewards=1000 * data.rewards)
    agent = build()
    batch = agent.prepare(data).transitions._replace(terminals=torch.ones(len(data)))
    torch.testing.assert_close(agent.target(batch), data.rewards)


def test_normalised_targets_have_unit_spread() -> None:
    agent, data = build(normalize_target=True), episodes()
    batch = data.transitions._replace(terminals=torch.ones(len(data)), rewards=7 * data.rewards)
    y = batch.rewards.double().numpy()
    expected = loss_by_hand(agent, batch, y / y.std(ddof=1))
    assert float(agent.critic_loss(batch)[0].detach()) == pytest.approx(expected, rel=1e-4)


# Which loss moves which network ---------------------------------------------------------------


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor | None]:
    parameters = [p.requires_grad_() for p in module.parameters()]
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True))


def test_the_critics_loss_reaches_the_critics_alone() -> None:
    agent, data = build(), episodes()
    loss, _ = agent.critic_loss(data.transitions)
    assert all(g is not None and g.abs().sum() > 0 for g in gradients(loss, agent.critic))
    for module in (agent.policy, agent.average_policy, agent.target_critic):
        assert all(g is None for g in gradients(loss, module))


@pytest.mark.parametrize(("name", "moved"), [("critic", "critic"), ("policy", "policy")])
def test_a_step_on_a_loss_moves_one_network(name: str, moved: str) -> None:
    agent, data = build(), episodes()
    agent.prepare(data)
    before = {key: value.clone() for key, value in agent.state_dict().items()}
    loss = agent.critic_loss if name == "critic" else agent.actor_loss
    agent.minimize(name, loss, data.transitions)
    now = agent.state_dict()
    assert {k.split(".")[0] for k in before if not torch.equal(before[k], now[k])} == {moved}
    other = agent.policy if name == "critic" else agent.critic
    assert all(p.grad is None for p in other.parameters())


def test_the_guidance_is_added_to_the_consistency_loss() -> None:
    data = episodes()
    plain, guided = build(eta=0.0), build(eta=2.0)
    guided.load_state_dict(plain.state_dict())
    losses = []
    for agent in (plain, guided):
        torch.manual_seed(3)
        loss, metrics = agent.actor_loss(data.transitions)
        losses.append(float(loss.detach()))
        assert (float(loss.detach()) == float(metrics["actor/consistency_loss"])) == (
            agent is plain
        )
    torch.manual_seed(3)
    guided.policy.loss(data.observations, data.actions, guided.progress)
    guidance, q = guided.guidance(data.observations, guided.policy(data.observations))
    assert losses[1] == pytest.approx(losses[0] + 2.0 * float(guidance.detach()), rel=1e-5)
    assert float(metrics["actor/q"]) == pytest.approx(float(q), rel=1e-5)


def test_one_critic_guides_in_units_of_the_other() -> None:
    """Their code: −E[Q₁]/E|Q₂| or −E[Q₂]/E|Q₁|, by the toss of a coin."""
    agent, data = build(), episodes()
    obs, actions = data.observations, data.actions.clone().requires_grad_()
    guides = []
    for seed in range(8):
        q = agent.critic(obs, actions)
        means, sizes = q.mean(1), q.detach().abs().mean(1)
        torch.manual_seed(seed)
        guidance, mean = agent.guidance(obs, actions)
        guide = int((means.detach() - mean).abs().argmin())
        torch.testing.assert_close(mean, means[guide].detach())
        torch.testing.assert_close(guidance, -means[guide] / sizes[1 - guide])
        expected = torch.autograd.grad(-means[guide] / sizes[1 - guide], actions)
        torch.testing.assert_close(torch.autograd.grad(guidance, actions), expected)
        guides.append(guide)
    assert set(guides) == {0, 1}


def test_the_guidance_reaches_the_policy() -> None:
    agent, data = build(), episodes()
    guidance, _ = agent.guidance(data.observations, agent.policy(data.observations))
    assert any(g is not None and g.abs().sum() > 0 for g in gradients(guidance, agent.policy))


def test_the_target_critic_follows_at_rate_tau() -> None:
    agent, data = build(tau=0.1), episodes()
    before = {key: value.clone() for key, value in agent.target_critic.named_parameters()}
    agent.update(data.transitions)
    for key, critic in agent.critic.named_parameters():
        expected = 0.9 * before[key].double() + 0.1 * critic.detach().double()
        target = agent.target_critic.get_parameter(key).double()
        torch.testing.assert_close(target, expected, rtol=1e-6, atol=1e-7)


# Choosing among candidates --------------------------------------------------------------------


def with_known_values(gains: list[list[float]], **kwargs: Any) -> DingJinAC:
    """An agent whose critic e is the plain sum Σ_i gains[e][i] a_i."""
    agent = build(hidden=(), critic_ensemble=len(gains), **kwargs)
    weight = torch.tensor(gains, dtype=torch.float32)[:, :, None]
    for critic in (agent.critic, agent.target_critic):
        layer = critic.layers[0]
        with torch.no_grad():
            layer.bias.zero_()
            layer.weight.zero_()
            layer.weight[:, OBS_DIM:] = weight
    return agent


def candidates_of(agent: DingJinAC, obs: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """(N, count, action_dim): what `act` draws with a generator seeded by 4."""
    repeated = torch.from_numpy(obs).repeat_interleave(count, dim=0)
    with torch.no_grad():
        drawn = agent.average_policy(repeated, generator=torch.Generator().manual_seed(4))
    return drawn.view(len(obs), count, ACTION_DIM).numpy()


@pytest.mark.parametrize("count", [2, 16])
def test_best_of_takes_the_candidate_of_the_highest_value(count: int) -> None:
    agent = with_known_values([[1.0, -2.0]])
    obs = np.random.default_rng(0).normal(size=(9, OBS_DIM)).astype(np.float32)
    chosen = agent.act(obs, best_of=count, generator=torch.Generator().manual_seed(4))
    drawn = candidates_of(agent, obs, count)
    value = drawn @ np.array([1.0, -2.0], np.float32)
    np.testing.assert_array_equal(chosen, drawn[np.arange(9), value.argmax(1)])
    assert len(set(value.argmax(1).tolist())) > 1


def test_the_value_is_the_least_of_the_critics() -> None:
    agent = with_known_values([[1.0, 0.0], [-1.0, 0.0]])
    actions = torch.tensor([[0.5, 0.3], [-0.25, 0.9], [0.0, 1.0]])
    expected = torch.tensor([-0.5, -0.25, 0.0])
    torch.testing.assert_close(agent.value(torch.randn(3, OBS_DIM), actions), expected)
    chosen = agent.act(np.zeros((5, OBS_DIM), np.float32), best_of=64)
    assert (np.abs(chosen[:, 0]) < 0.2).all()  # −|a₀| is largest at 0


def test_candidates_of_the_agents_own_are_taken_by_softmax() -> None:
    agent = with_known_values([[60.0, 0.0]], candidates=8)
    obs = np.zeros((40, OBS_DIM), np.float32)
    chosen = agent.act(obs, generator=torch.Generator().manual_seed(4))
    drawn = candidates_of(agent, obs, 8)
    assert all((drawn[i] == chosen[i]).all(1).any() for i in range(40))
    best = drawn[..., 0].max(1)
    assert (chosen[:, 0] > best - 0.2).mean() > 0.9  # a gap of 0.2 is e¹² in odds
    indifferent = with_known_values([[0.0, 0.0]], candidates=8)
    indifferent.average_policy.load_state_dict(agent.average_policy.state_dict())
    spread = indifferent.act(obs, generator=torch.Generator().manual_seed(4))
    assert (spread[:, 0] > best - 1e-6).mean() < 0.5


# Configuration and learning -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eta", -1.0),
        ("weight_decay", -0.1),
        ("discount", 1.0),
        ("discount", -0.1),
        ("tau", 0.0),
        ("tau", 1.1),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        DingJinACConfig(**{key: value})


def bandit(count: int = 2000) -> TransitionDataset:
    """One step, actions all over, reward −|a − (0.5, −0.5)|²."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, size=(count, ACTION_DIM))
    rewards = -np.square(actions - [0.5, -0.5]).sum(1)
    return TransitionDataset.from_arrays(
        rng.normal(size=(count, OBS_DIM)), actions, rewards, np.ones(count, bool)
    )


@pytest.mark.slow
def test_guidance_finds_better_actions_than_the_datas() -> None:
    data = bandit()
    found = []
    for eta in (0.0, 5.0):
        agent = build(500, (32, 32), eta=eta, learning_rate=1e-3, critic_learning_rate=3e-3)
        agent.prepare(data)
        for _ in range(500):
            agent.update(data.sample(128))
        actions = agent.policy.act(data.observations[:400].numpy())
        found.append(np.square(actions - [0.5, -0.5]).sum(1).mean())
    assert found[1] < 0.5 * found[0]
