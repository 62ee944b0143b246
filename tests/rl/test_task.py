"""Data, agent and environment put together, in process."""

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

from cmpolicy.agents import ConsistencyAC, ConsistencyBC
from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.datasets.transitions import DatasetInfo
from cmpolicy.errors import InputError
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.task import (
    OfflineRL,
    act_with,
    build_agent,
    evaluation_env,
    references_of,
)
from cmpolicy.rl.tasks import EnvConfig

SMALL = ("agent.policy.hidden=[8]", "eval.episodes=2", "eval.final_episodes=3")


def compose(*overrides: str) -> RLConfig:
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = OmegaConf.to_object(hydra.compose("rl", [*SMALL, *overrides]))
    assert isinstance(config, RLConfig)
    return config


def write_hopper(path: Path, **changes: Any) -> Path:
    """A hundred random steps in D4RL's layout, with Hopper's shapes."""
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(100, 11)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(100, 3)).astype(np.float32),
        "rewards": rng.normal(size=100).astype(np.float32),
        "terminals": np.arange(100) % 20 == 19,
        "timeouts": np.zeros(100, bool),
    }
    with h5py.File(path, "w") as file:
        for key, values in (arrays | changes).items():
            file[key] = values
    return path


@pytest.fixture
def task(tmp_path: Path) -> OfflineRL:
    path = write_hopper(tmp_path / "mine.hdf5")
    config = compose(f"dataset.path={path}", "env.id=Hopper-v5", "agent=bc")
    return OfflineRL(config, torch.device("cpu"))


def test_the_parts_fit(task: OfflineRL) -> None:
    assert isinstance(task.learner, ConsistencyBC)
    assert len(task.dataset) == 99
    assert (task.spaces.obs_dim, task.spaces.action_dim) == (11, 3)
    assert task.env == Environment("Hopper-v5", None, "minari")
    assert task.references is not None
    torch.testing.assert_close(task.learner.policy.obs_mean, task.dataset.observations.mean(0))


def test_pen_is_cut_where_d4rl_cuts_it() -> None:
    """Gymnasium's pen goes on for twice as long, which would double the score."""
    pen = compose("env=pen-expert", "agent=bc").env
    pytest.importorskip("gymnasium_robotics")
    recorded = evaluation_env(pen, DatasetInfo(source="file", env_id="AdroitHandPen-v1"))
    d4rl = evaluation_env(pen, DatasetInfo(source="d4rl"))
    for environment in (recorded, d4rl):
        assert (environment.id, environment.max_episode_steps) == ("AdroitHandPen-v1", 100)
        limit = environment.make().spec
        assert limit is not None
        assert limit.max_episode_steps == 100
    minari = evaluation_env(pen, DatasetInfo("", "minari", env_id="X-v0", env_spec="{}"))
    assert minari.max_episode_steps is None


def test_the_description_says_what_a_result_needs(task: OfflineRL) -> None:
    described = json.loads(json.dumps(task.description(), allow_nan=False))
    assert (described["task"], described["agent"], described["seed"]) == ("custom", "bc", 0)
    assert described["environment"]["id"] == "Hopper-v5"
    assert described["dataset"]["transitions"] == 99
    assert described["dataset"]["comparable"] is False
    assert described["dataset"]["mean_normalized_score"] == pytest.approx(task.data_score())


def test_evaluations_repeat_and_the_final_one_uses_other_episodes(task: OfflineRL) -> None:
    state = torch.get_rng_state()
    first = task.evaluate(10)
    assert task.evaluate(20).scalars == first.scalars
    assert first.step == 10
    assert first.score == first.scalars["eval/normalized_score"]
    assert torch.equal(torch.get_rng_state(), state)
    final = task.final_score()
    assert final.episodes == 3
    assert final.mean_return != first.scalars["eval/mean_return"]


def test_seeds_of_evaluations_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The final episodes are not those that the best checkpoint was chosen by, of any seed."""
    path, used = write_hopper(tmp_path / "mine.hdf5"), []
    monkeypatch.setattr(
        OfflineRL, "score", lambda self, n, seed: used.append(range(seed, seed + n)) or None
    )
    for seed in (0, 1, 2):
        config = compose(f"dataset.path={path}", "env.id=Hopper-v5", f"seed={seed}")
        task = OfflineRL(config, torch.device("cpu"))
        with pytest.raises((AttributeError, TypeError)):
            task.evaluate(1)
        task.final_score()
    assert len(used) == 6
    seeds = [s for span in used for s in span]
    assert len(set(seeds)) == len(seeds)


def test_the_reward_transform_reaches_training_but_not_the_info(tmp_path: Path) -> None:
    path = write_hopper(tmp_path / "mine.hdf5")
    config = compose(
        f"dataset.path={path}", "env.id=Hopper-v5", "env.reward=normalize", "agent.n_step=1"
    )
    task = OfflineRL(config, torch.device("cpu"))
    assert isinstance(task.learner, ConsistencyAC)
    assert float(task.dataset.rewards.mean()) == pytest.approx(0, abs=1e-5)
    assert float(task.dataset.rewards.std()) == pytest.approx(1, abs=1e-3)
    with h5py.File(path) as file:
        expected = file["rewards"][()].reshape(5, 20).sum(1).mean()
    assert task.info.mean_return == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "env_id", "reason"),
    [
        ({}, "HalfCheetah-v5", "the dataset's observations have 11 entries"),
        ({"actions": np.zeros((100, 2), np.float32)}, "Hopper-v5", "actions have 2 entries"),
        ({"actions": np.full((100, 3), 1.5, np.float32)}, "Hopper-v5", "action 0 of the dataset"),
        ({}, "CartPole-v1", "expected a vector"),
        ({}, "Hoper-v5", "cannot make environment"),
        ({}, None, "does not say which environment"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], env_id: str | None, reason: str
) -> None:
    path = write_hopper(tmp_path / "mine.hdf5", **changes)
    overrides = [f"env.id={env_id}"] if env_id else []
    with pytest.raises(InputError, match=reason) as error:
        OfflineRL(compose(f"dataset.path={path}", *overrides), torch.device("cpu"))
    assert "\n" not in str(error.value)


def test_no_task_and_no_algorithm_are_refused() -> None:
    with pytest.raises(InputError, match="no task: give env=NAME"):
        OfflineRL(compose(), torch.device("cpu"))
    config = compose()
    config.agent.algorithm = "sac"
    with pytest.raises(InputError, match="unknown algorithm 'sac', expected one of bc, ac"):
        build_agent(config, None)  # type: ignore[arg-type]


def test_the_configured_environment_comes_before_the_recorded_one() -> None:
    env = EnvConfig("x", d4rl_env_id="Hopper-v4")
    recorded = DatasetInfo(source="minari", env_id="Hopper-v5", env_spec="{}")
    d4rl = DatasetInfo(source="d4rl")
    assert evaluation_env(env, recorded) == Environment("Hopper-v5", "{}", "minari")
    assert evaluation_env(env, d4rl) == Environment("Hopper-v4", None, "d4rl")
    env.id = "Mine-v0"
    assert evaluation_env(env, recorded) == Environment("Mine-v0", None, "minari")


def test_references_recorded_with_the_data_come_first() -> None:
    assert references_of("Hopper-v5", DatasetInfo(ref_min_score=1.0, ref_max_score=9.0)) == (
        1.0,
        9.0,
    )
    assert references_of("Hopper-v5", DatasetInfo()) == pytest.approx((-20.272305, 3234.3))
    assert references_of("Pendulum-v1", DatasetInfo()) is None


def test_acting_is_bound_to_a_generator(task: OfflineRL) -> None:
    obs = np.zeros((2, 11), np.float32)
    bind = act_with(task.learner, steps=2)
    first, again = (bind(torch.Generator().manual_seed(1))(obs) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    with pytest.raises(InputError, match="no critic"):
        act_with(task.learner, best_of=2)(torch.Generator())(obs)
