"""Several seeds as one: each comes out as it would alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from cmpolicy.acceleration.stacked_agents import StackedAgents
from cmpolicy.agents import AGENTS, Agent, AgentConfig, Spaces
from cmpolicy.agents.agent import Metrics, clip_norm
from cmpolicy.agents.bc import BCConfig
from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.consistency.losses import LOSSES
from cmpolicy.consistency.randomness import normal
from cmpolicy.datasets.transitions import TransitionBatch, TransitionDataset
from cmpolicy.policy.config import PolicyConfig
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.seeds import StackedBatches
from cmpolicy.training.checkpoint import load_state, save_state
from cmpolicy.training.random_state import OwnRandomState

SPACES = Spaces(5, [-2.0, 0.0], [1.0, 5.0])
TOTAL, BATCH = 40, 32
SEEDS = (3, 7, 0, 1, 2)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def config_of(name: str, **changes: Any) -> AgentConfig:
    """A configuration of configs/agent/ with small networks."""
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        composed = hydra.compose("rl", ["env=hopper-medium", f"agent={name}"])
    run = OmegaConf.to_object(composed)
    assert isinstance(run, RLConfig)
    config = run.agent
    assert isinstance(config, AgentConfig)
    config.policy.hidden = [16, 16]
    if hasattr(config, "critic_ensemble"):
        config.critic_hidden = [16, 16]  # type: ignore[attr-defined]
    for key, value in changes.items():
        setattr(config, key, value)
    return config


@pytest.fixture(scope="module")
def dataset() -> TransitionDataset:
    rng = np.random.default_rng(1)
    ends = np.arange(300) % 10 == 9
    return TransitionDataset.from_arrays(
        rng.normal(3, 2, size=(300, 5)),
        rng.uniform([-2, 0], [1, 5], size=(300, 2)),
        rng.normal(size=300),
        ends,
    )


class Trained:
    """Seeds of one agent, alone or stacked, and what they draw from."""

    def __init__(self, config: AgentConfig, dataset: TransitionDataset, seeds: tuple[int, ...]):
        self.states, self.agents = [], []
        for seed in seeds:
            torch.manual_seed(seed)
            agent = AGENTS[config.algorithm](SPACES, config, TOTAL)
            self.data = agent.prepare(dataset)
            self.agents.append(agent)
            self.states.append(OwnRandomState(torch.device("cpu")))
        self.generators = [state.generator for state in self.states]
        self.stack = StackedAgents(self.agents, self.generators)
        self.batches = StackedBatches(self.data, self.generators)

    def update(self, updates: int) -> Metrics:
        for _ in range(updates):
            metrics = self.stack.update(self.batches.sample(BATCH))
        return metrics


def alone(
    config: AgentConfig, dataset: TransitionDataset, seed: int, updates: int
) -> tuple[Agent, Metrics]:
    """The path of a run of one seed."""
    torch.manual_seed(seed)
    agent = AGENTS[config.algorithm](SPACES, config, TOTAL)
    data = agent.prepare(dataset)
    for _ in range(updates):
        metrics = agent.update(data.sample(BATCH))
    return agent, metrics


def assert_close(a: Agent, b: Agent, **tolerance: float) -> None:
    mine, theirs = a.state_dict(), b.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], **(tolerance or TOLERANCE), msg=name)


@pytest.mark.parametrize("name", AGENTS)
def test_a_seed_among_five_is_the_seed_alone(name: str, dataset: TransitionDataset) -> None:
    config = config_of(name)
    five = Trained(config, dataset, SEEDS)
    together = five.update(20)
    one = Trained(config, dataset, SEEDS[:1])
    one.update(20)
    single, metrics = alone(config, dataset, SEEDS[0], 20)
    assert_close(five.agents[0], single)
    assert_close(one.agents[0], single)
    assert together.keys() == metrics.keys()
    for key, value in metrics.items():
        assert together[key].shape == (5,)
        torch.testing.assert_close(together[key][0], value, rtol=1e-3, atol=1e-4)
    observations = np.zeros((4, 5), np.float32)
    actions = [
        agent.act(observations, generator=torch.Generator().manual_seed(0))
        for agent in (five.agents[0], single, five.agents[1])
    ]
    np.testing.assert_allclose(actions[0], actions[1], rtol=1e-3, atol=1e-3)
    assert np.abs(actions[0] - actions[2]).max() > 1e-2


@pytest.mark.parametrize("name", AGENTS)
def test_seeds_act_together_as_each_alone(name: str, dataset: TransitionDataset) -> None:
    """Through all steps and candidates of their policies, the second action as the first."""
    stacked = Trained(config_of(name), dataset, (3, 7, 0))
    stacked.update(3)
    observations = np.random.default_rng(0).normal(3, 2, size=(3, 6, 5)).astype(np.float32)
    state = torch.get_rng_state()
    act = stacked.stack.act_with([torch.Generator().manual_seed(s) for s in (5, 6, 8)])
    together = [act(observations) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    drawn = stacked.agents[0].candidates > 1 or stacked.agents[0].config.mode_of == 1
    assert (np.abs(together[0] - together[1]).max() > 1e-3) == drawn
    for i, (agent, seed) in enumerate(zip(stacked.agents, (5, 6, 8), strict=True)):
        generator = torch.Generator().manual_seed(seed)
        for actions in together:
            alone = agent.act(observations[i], generator=generator)
            np.testing.assert_allclose(actions[i], alone, rtol=1e-4, atol=1e-5)
    assert act(observations).dtype == np.float32


def test_an_action_is_of_the_weights_as_they_are(dataset: TransitionDataset) -> None:
    """After an update, and after weights were loaded into one of the agents."""
    stacked, other = (Trained(config_of("bc"), dataset, seeds) for seeds in ((3, 7), (9,)))
    observations = np.zeros((2, 4, 5), np.float32)
    act = stacked.stack.act_with([torch.Generator().manual_seed(s) for s in (0, 0)])
    act(observations)
    stacked.update(2)
    stacked.agents[1].load_training_state(other.agents[0].training_state())
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    actions = stacked.stack.act_with(generators)(observations)
    for i, agent in enumerate((stacked.agents[0], other.agents[0])):
        alone = agent.act(observations[i], generator=torch.Generator().manual_seed(0))
        np.testing.assert_allclose(actions[i], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "ict"])
def test_every_loss_can_be_stacked(loss: str, dataset: TransitionDataset) -> None:
    config = BCConfig(policy=PolicyConfig(hidden=[8], loss=loss))
    stacked = Trained(config, dataset, (4, 5))
    stacked.update(10)
    for agent, seed in zip(stacked.agents, (4, 5), strict=True):
        assert_close(agent, alone(config, dataset, seed, 10)[0])


def test_gradients_are_clipped_seed_by_seed(dataset: TransitionDataset) -> None:
    config = config_of("ac", max_grad_norm=0.01)
    stacked = Trained(config, dataset, (4, 5))
    stacked.update(10)
    for agent, seed in zip(stacked.agents, (4, 5), strict=True):
        assert_close(agent, alone(config, dataset, seed, 10)[0])
    parameters = stacked.stack.stacked.critic.parameters()  # type: ignore[union-attr]
    norms = torch.stack([p.grad.flatten(1).norm(dim=1) for p in parameters if p.grad is not None])
    torch.testing.assert_close(norms.norm(dim=0), torch.full((2,), 0.01), rtol=1e-3, atol=0)


def test_clipping_is_torchs() -> None:
    gradients = [torch.randn(3, 4), torch.randn(5)]
    for max_norm in (0.5, 100.0):
        parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        for parameter, clipped in zip(parameters, clip_norm(max_norm, *gradients), strict=True):
            torch.testing.assert_close(parameter.grad, clipped)


def test_a_seed_that_diverges_takes_no_other_with_it(dataset: TransitionDataset) -> None:
    config = config_of("ac", max_grad_norm=1.0)
    stacked = Trained(config, dataset, (4, 5))
    with torch.no_grad():
        for parameter in stacked.agents[0].parameters():
            parameter.fill_(float("nan"))
    metrics = stacked.update(5)
    assert not metrics["critic/loss"][0].isfinite()
    assert_close(stacked.agents[1], alone(config, dataset, 5, 5)[0])


@pytest.mark.parametrize("name", ["ac", "ac_ding_jin"])
def test_saved_and_loaded_it_goes_on_bit_for_bit(
    name: str, dataset: TransitionDataset, tmp_path: Path
) -> None:
    config, path = config_of(name), tmp_path / "state.safetensors"
    whole = Trained(config, dataset, (3, 7))
    whole.update(6)
    rng = [state.state() for state in whole.states]
    save_state(path, {**whole.stack.training_state(), "rng": rng})
    whole.update(6)
    resumed, state = Trained(config, dataset, (3, 7)), load_state(path)
    resumed.update(2)  # in other weights, which are all replaced
    resumed.stack.load_training_state(state)
    for random_state, own in zip(resumed.states, state["rng"], strict=True):
        random_state.load(own)
    resumed.update(6)
    for a, b in zip(whole.agents, resumed.agents, strict=True):
        assert_close(a, b, rtol=0, atol=0)

    torch.set_rng_state(state["rng"][1]["cpu"])  # the second seed goes on by itself
    agent = AGENTS[config.algorithm](SPACES, config, TOTAL)
    torch.set_rng_state(state["rng"][1]["cpu"])
    agent.load_training_state(state["agents"][1])
    for _ in range(6):
        agent.update(whole.data.sample(BATCH))
    assert_close(agent, whole.agents[1])


def test_updates_leave_torchs_generator_and_the_places_of_tensors(
    dataset: TransitionDataset,
) -> None:
    stacked = Trained(config_of("ac"), dataset, (3, 7))
    stacked.update(1)

    def places() -> list[int]:
        tensors = [*stacked.stack.stacked.state_dict().values(), *stacked.agents[1].parameters()]
        return [tensor.data_ptr() for tensor in tensors]

    before, state = places(), torch.get_rng_state()
    stacked.update(2)
    assert places() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert int(stacked.agents[1].step) == 3


class Fickle(AGENTS["bc"]):  # type: ignore[misc]
    """Draws once more at every update."""

    draws = 0

    def actor_loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        Fickle.draws += 1
        for _ in range(Fickle.draws):
            normal((1,), batch.rewards)
        return super().actor_loss(batch)  # type: ignore[no-any-return]


def test_an_agent_that_draws_otherwise_every_time_is_refused(dataset: TransitionDataset) -> None:
    agents = [Fickle(SPACES, BCConfig(policy=PolicyConfig(hidden=[8])), TOTAL) for _ in range(2)]
    generators = [torch.Generator().manual_seed(s) for s in (0, 1)]
    batch = dataset.at(torch.zeros(2, BATCH, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="where every update draws the same"):
        StackedAgents(agents, generators).update(batch)
