"""Windows of episodes against a plain loop, and what critics make of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmpolicy.agents import ConsistencyAC, ConsistencyBC, Spaces
from cmpolicy.agents.ac import ACConfig
from cmpolicy.agents.bc import BCConfig
from cmpolicy.datasets.n_step_returns import n_step, with_returns
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.datasets.windows import windowed
from cmpolicy.policy.config import PolicyConfig

LENGTHS = (7, 1, 4)  # the first ends by a terminal, the others by timeouts


def recorded() -> TransitionDataset:
    n = sum(LENGTHS)
    rng = np.random.default_rng(0)
    ends = np.isin(np.arange(n), np.cumsum(LENGTHS) - 1)
    terminals = ends & (np.arange(n) < LENGTHS[0])
    observations = rng.normal(size=(n + 1, 2))
    following = np.where(ends[:, None], rng.normal(size=(n, 2)), observations[1:])
    return TransitionDataset.from_arrays(
        *(observations[:-1], rng.normal(size=(n, 3)), rng.normal(size=n), terminals),
        ends & ~terminals,
        following,
    )


def test_windows_equal_a_plain_loop() -> None:
    history, horizon, data = 3, 4, recorded()
    wide = windowed(data, history, horizon)
    begin = 0
    for length in LENGTHS:
        for t in range(begin, begin + length):
            before = [max(begin, t - i) for i in reversed(range(history))]
            after = [min(begin + length - 1, t + i) for i in range(horizon)]
            assert torch.equal(wide.observations[t], data.observations[before].flatten())
            assert torch.equal(wide.actions[t], data.actions[after].flatten())
            following = [*data.observations[before[1:]], data.next_observations[t]]
            assert torch.equal(wide.next_observations[t], torch.cat(following))
        begin += length
    assert torch.equal(wide.rewards, data.rewards)
    assert windowed(data, 1, 1) is data


def test_a_chunk_earns_its_rewards_and_one_bootstrap() -> None:
    data, gamma = recorded(), 0.9
    config = ACConfig(policy=PolicyConfig(horizon=4, execute=3, history=2), discount=gamma)
    agent = ConsistencyAC(Spaces(2, [-3.0] * 3, [3.0] * 3), config, 10)
    prepared = agent.prepare(data)
    reward = sum(gamma**i * float(data.rewards[1 + i]) for i in range(3))
    assert float(prepared.rewards[1]) == pytest.approx(reward, abs=1e-5)
    assert 1 - float(prepared.terminals[1]) == pytest.approx(gamma**2)  # times γ: γ³
    seen = torch.cat((data.observations[3], data.next_observations[3]))
    assert torch.equal(prepared.next_observations[1], seen)
    assert float(prepared.terminals[5]) == 1  # the episode ends in the chunk
    batch = prepared.at(torch.tensor([1]))
    whole = sum(gamma**i * float(data.rewards[1 + i]) for i in range(6))
    assert float(batch.returns[0]) == pytest.approx(whole, abs=1e-5)
    assert agent.critic(prepared.observations, prepared.actions).shape == (2, len(data))


def test_a_terminal_inside_an_episode_ends_returns_but_not_windows() -> None:
    data = recorded()
    data.terminals[2] = 1  # success, after which the recording goes on
    inside = n_step(data, 3, 0.5)
    assert float(inside.rewards[1]) == pytest.approx(float(data.rewards[1] + data.rewards[2] / 2))
    assert float(inside.terminals[1]) == 1
    far = with_returns(data, 0.5).at(torch.tensor([0, 3]))
    expected = float(data.rewards[0] + data.rewards[1] / 2 + data.rewards[2] / 4)
    assert float(far.returns[0]) == pytest.approx(expected)
    assert torch.equal(far.final_observations[0], data.next_observations[2])
    assert torch.equal(windowed(data, 1, 4).actions[1], data.actions[1:5].flatten())


def test_weights_of_returns_are_those_of_steps() -> None:
    data = recorded().weighted_by_return(0.5)
    wide = n_step(windowed(data, 2, 3), 3, 0.9)
    assert wide.weights is data.weights


def test_a_clone_imitates_chunks() -> None:
    torch.manual_seed(0)
    config = BCConfig(policy=PolicyConfig(horizon=3, history=2, hidden=[8]))
    agent = ConsistencyBC(Spaces(2, [-3.0] * 3, [3.0] * 3), config, 4)
    prepared = agent.prepare(recorded())
    before = [p.clone() for p in agent.policy.parameters()]
    metrics = agent.update(prepared.sample(8))
    assert torch.isfinite(metrics["actor/consistency_loss"])
    assert any(
        not torch.equal(a, b) for a, b in zip(before, agent.policy.parameters(), strict=True)
    )
    assert agent.act(np.zeros((5, 4), np.float32)).shape == (5, 9)
