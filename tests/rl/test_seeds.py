"""Several seeds on one dataset: what each begins with, what it draws, what is said of all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from cmpolicy.agents import Agent
from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.seeds import OfflineRLSeeds, StackedBatches
from cmpolicy.rl.task import OfflineRL
from cmpolicy.training.loop import Evaluation
from cmpolicy.training.run_directory import RunDirectory

CPU = torch.device("cpu")
SMALL = ("agent.policy.hidden=[8]", "agent.critic_hidden=[8]", "eval.episodes=2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A hundred random steps in D4RL's layout, with Hopper's shapes."""
    path = tmp_path_factory.mktemp("data") / "mine.hdf5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["observations"] = rng.normal(size=(100, 11)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, size=(100, 3)).astype(np.float32)
        file["rewards"] = rng.normal(size=100).astype(np.float32)
        file["terminals"] = np.arange(100) % 20 == 19
        file["timeouts"] = np.zeros(100, bool)
    return str(path)


def compose(data: str, *overrides: str) -> RLConfig:
    settings = [*SMALL, f"dataset.path={data}", "env.id=Hopper-v5", *overrides]
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = OmegaConf.to_object(hydra.compose("rl", settings))
    assert isinstance(config, RLConfig)
    return config


@pytest.fixture
def task(data: str) -> OfflineRLSeeds:
    return OfflineRLSeeds(compose(data, "seeds=[5,2]"), CPU)


def test_each_seed_begins_as_it_would_alone(data: str, task: OfflineRLSeeds) -> None:
    drawn = [task.tasks[0].dataset.sample(64, state.generator) for state in task.random_states]
    for i, seed in enumerate((5, 2)):
        torch.manual_seed(seed)
        alone = OfflineRL(compose(data, f"seed={seed}"), CPU)
        mine = task.tasks[i].learner.state_dict()
        for name, tensor in alone.learner.state_dict().items():
            assert torch.equal(mine[name], tensor), name
        batch = alone.dataset.sample(64)
        assert all(torch.equal(a, b) for a, b in zip(batch, drawn[i], strict=True))
        assert task.tasks[i].evaluate(3) == alone.evaluate(3)
    assert task.tasks[1].dataset is task.tasks[0].dataset


@pytest.mark.parametrize("agent", ["ac", "diffusion_ql"])
def test_all_seeds_are_evaluated_with_one_call_a_step(
    data: str, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Returns differ by what products summed in another order grow to within an episode."""
    overrides = (f"agent={agent}", "seeds=[4,0,3]", "eval.final_episodes=3")
    task = OfflineRLSeeds(compose(data, *overrides), CPU)
    task.learner.update(task.dataset.sample(8))
    shapes, choose = [], Agent.choose

    def counted(self: Agent, obs: Tensor, **options: Any) -> Tensor:
        shapes.append(tuple(obs.shape))
        return choose(self, obs, **options)

    monkeypatch.setattr(Agent, "choose", counted)
    together, calls = task.evaluate(3), len(shapes)
    assert set(shapes) == {(2, 11)}  # of a seed, as vmap shows it
    steps = []
    for evaluation, alone in zip(together, task.tasks, strict=True):
        shapes.clear()
        assert evaluation.scalars == pytest.approx(alone.evaluate(3).scalars, rel=1e-3)
        steps.append(len(shapes))
    assert calls == 1 + max(steps)  # the first one finds what is drawn
    assert len({evaluation.score for evaluation in together}) == 3
    for score, alone in zip(task.final_scores(), task.tasks, strict=True):
        assert score.mean_return == pytest.approx(alone.final_score().mean_return, rel=1e-3)


def test_batches_have_an_axis_of_seeds(task: OfflineRLSeeds) -> None:
    seeded = [torch.Generator().manual_seed(s) for s in (1, 2)]
    dataset = task.tasks[0].dataset
    batch = StackedBatches(dataset, seeded).sample(7)
    shapes = [tuple(column.shape) for column in batch]
    observations, actions, numbers = (2, 7, 11), (2, 7, 3), (2, 7)
    after = [numbers, observations, numbers]  # one step on, and at the episode's end
    assert shapes == [observations, actions, *after, *after, observations, actions]
    for i, seed in enumerate((1, 2)):
        alone = dataset.sample(7, torch.Generator().manual_seed(seed))
        assert all(torch.equal(a[i], b) for a, b in zip(batch, alone, strict=True))


def test_what_is_said_of_all(task: OfflineRLSeeds, tmp_path: Path) -> None:
    described = json.loads(json.dumps(task.description()))
    assert described["seeds"] == task.seeds == [5, 2]
    assert "seed" not in described
    assert described["environment"]["id"] == "Hopper-v5"
    one = task.tasks[1].description()
    assert (one["seed"], one["seeds_at_once"]) == (2, 2)
    assert task.run_name() == "custom/ac"
    results = [{"last": {"normalized_score": score}} for score in (10.0, 16.0)]
    assert task.summary(results, "last") == {
        "normalized_score": 13.0,
        "seed_standard_error": pytest.approx(3.0),
        "by_seed": {"5": 10.0, "2": 16.0},
    }
    evaluations = [Evaluation(6, 13.0, {"eval/seed_standard_error": 3.0})]
    assert task.draw(RunDirectory(tmp_path), evaluations).stat().st_size > 1000
