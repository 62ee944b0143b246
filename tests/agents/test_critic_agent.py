"""The scale of values: what |Q| may reach, and that a critic driven off is caught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cmpolicy.agents import AGENTS, Spaces
from cmpolicy.agents.critic_agent import CriticAgent
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.training.loop import DivergedError, Evaluation, Schedule, TrainingLoop
from cmpolicy.training.run_directory import RunDirectory

OBS_DIM, ACTION_DIM, GAMMA = 3, 2, 0.9
SPACES = Spaces(OBS_DIM, [-1.0, -1.0], [1.0, 1.0])
WITH_CRITICS = [name for name, agent in AGENTS.items() if issubclass(agent, CriticAgent)]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def dataset() -> TransitionDataset:
    """Episodes of seven steps with costs, one of them large: the largest return is negative."""
    rng = np.random.default_rng(0)
    rewards = rng.normal(-30, 20, size=210)
    rewards[52] = -3000
    last = np.arange(210) % 7 == 6
    return TransitionDataset.from_arrays(
        rng.normal(size=(210, OBS_DIM)),
        rng.uniform(-1, 1, size=(210, ACTION_DIM)),
        rewards,
        last,
    )


def build(name: str, **kwargs: Any) -> CriticAgent:
    config = AGENTS[name].Config
    policy = type(config().policy)(hidden=[8])
    options = {"policy": policy, "critic_hidden": [8], "discount": GAMMA, **kwargs}
    agent = AGENTS[name](SPACES, config(**options), 40)
    assert isinstance(agent, CriticAgent)
    return agent


def largest_return(dataset: TransitionDataset) -> float:
    """max_t |G_t|, step by step from behind."""
    following, largest = 0.0, 0.0
    for reward, end in reversed(list(zip(dataset.rewards, dataset.episode_ends, strict=True))):
        following = float(reward) + (0.0 if end else GAMMA * following)
        largest = max(largest, abs(following))
    return largest


def test_every_agent_but_cloning_has_critics() -> None:
    assert set(AGENTS) - set(WITH_CRITICS) == {"bc", "weighted_bc"}
    assert AGENTS["bc"](SPACES, AGENTS["bc"].Config(), 1).limits() == {}


@pytest.mark.parametrize("name", WITH_CRITICS)
def test_the_limit_is_ten_times_the_largest_return(name: str, dataset: TransitionDataset) -> None:
    agent = build(name)
    agent.prepare(dataset)
    scale = float(agent.reward_scale)
    assert (scale == 1.0) == (name in ("diffusion_ql", "ac_ding_jin"))
    expected = 10 * scale * largest_return(dataset)
    assert expected > 20
    assert agent.limits()["critic/q_max"][0] == pytest.approx(expected, rel=1e-5)


def test_data_without_rewards_leaves_room_for_an_untrained_network(
    dataset: TransitionDataset,
) -> None:
    agent = build("diffusion_ql")
    agent.prepare(dataset.replace(rewards=torch.zeros(len(dataset))))
    assert agent.limits()["critic/q_max"][0] == 10.0


def test_normalised_targets_have_no_limit(dataset: TransitionDataset) -> None:
    agent = build("ac_ding_jin", normalize_target=True)
    agent.prepare(dataset)
    assert agent.limits() == {}


@pytest.mark.parametrize("name", WITH_CRITICS)
def test_the_metric_is_the_largest_value_of_any_critic(
    name: str, dataset: TransitionDataset
) -> None:
    agent = build(name)
    batch = agent.prepare(dataset).sample(16)
    with torch.no_grad():
        for p in agent.critic.parameters():
            p.mul_(-3)
    q = agent.critic(batch.observations, batch.actions)
    _, metrics = agent.squared_error(batch, torch.zeros(16))
    assert float(metrics["critic/q_max"]) == max(abs(v) for row in q.tolist() for v in row)
    assert "critic/q_max" in agent.update(batch)


@pytest.mark.parametrize("name", WITH_CRITICS)
def test_what_it_knows_of_the_data_is_restored(name: str, dataset: TransitionDataset) -> None:
    agent, other = build(name), build(name)
    agent.prepare(dataset)
    assert other.limits() != agent.limits()
    other.load_training_state(agent.training_state())
    assert other.limits() == agent.limits()


@pytest.mark.parametrize("name", WITH_CRITICS)
def test_states_from_before_the_limit_are_read(name: str, dataset: TransitionDataset) -> None:
    agent, other = build(name), build(name)
    for one in (agent, other):
        one.prepare(dataset)
    state = agent.training_state()
    del state["modules"]["largest_return"]
    other.load_training_state(state)
    assert other.limits() == agent.limits()
    assert torch.equal(other.critic.layers[0].weight, agent.critic.layers[0].weight)


def loop_of(agent: CriticAgent, data: TransitionDataset, path: Path) -> TrainingLoop:
    run = RunDirectory(path)
    run.create("")
    schedule = Schedule(steps=40, batch_size=32, log_every=5, eval_every=40, checkpoint_every=10)
    evaluate = lambda step: Evaluation(step, 0.0, {})  # noqa: E731
    return TrainingLoop(agent, data, evaluate, run, schedule, progress_bar=False)


@pytest.mark.parametrize("name", WITH_CRITICS)
def test_an_ordinary_training_is_not_stopped(
    name: str, dataset: TransitionDataset, tmp_path: Path
) -> None:
    agent = build(name)
    loop = loop_of(agent, agent.prepare(dataset), tmp_path)
    assert loop.train()[-1].step == 40
    seen = [float(row["critic/q_max"]) for row in loop.run.read_metrics() if row["critic/q_max"]]
    assert len(seen) == 8
    assert max(seen) < agent.limits()["critic/q_max"][0]


@pytest.mark.parametrize("name", WITH_CRITICS)
def test_a_critic_that_runs_away_stops_the_training(
    name: str, dataset: TransitionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From update 13 on its last layer doubles, as that of a critic that follows itself does."""
    agent = build(name)
    bound = agent.prepare(dataset) and agent.limits()["critic/q_max"][0]
    update = agent.update

    def run_away(batch: Any) -> dict[str, Tensor]:
        if int(agent.step) >= 12:
            with torch.no_grad():
                agent.critic.layers[-1].weight.mul_(1e4)
        return update(batch)

    monkeypatch.setattr(agent, "update", run_away)
    loop = loop_of(agent, agent.prepare(dataset), tmp_path)
    with pytest.raises(DivergedError) as error:
        loop.train()
    reason = str(error.value)
    assert "critic/q_max is " in reason
    assert f"at step 15, its limit {bound:.6g}; " in reason
    assert "10 × the largest discounted return in the data; try a smaller critic_" in reason
    assert "\n" not in reason
    state = loop.run.load_checkpoint("last")
    assert state["step"] == 10
    assert all(t.isfinite().all() for t in state["learner"]["modules"].values())
