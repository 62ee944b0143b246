"""Data, agent and environment put together, in process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hydra
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from omegaconf import OmegaConf

from cmpolicy.agents import ConsistencyAC, ConsistencyBC
from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.datasets.transitions import DatasetInfo, TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.evaluation_environment import check_fits, evaluation_env, references_of
from cmpolicy.rl.task import OfflineRL, act_with, build_agent
from cmpolicy.rl.tasks import EnvConfig
from cmpolicy.rl.trained_agent import read_record
from cmpolicy.train import train
from cmpolicy.training.run_directory import RunDirectory

CPU = torch.device("cpu")
SMALL = ("agent.policy.hidden=[8]", "eval.episodes=2", "eval.final_episodes=3")


def compose(*overrides: str) -> RLConfig:
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = OmegaConf.to_object(hydra.compose("rl", [*SMALL, *overrides]))
    assert isinstance(config, RLConfig)
    return config


@pytest.fixture
def task(tmp_path: Path, write_data: Callable[..., Path]) -> OfflineRL:
    path = write_data(tmp_path / "mine.hdf5")
    config = compose(f"dataset.path={path}", "env.id=Hopper-v5", "agent=bc")
    return OfflineRL(config, CPU)


def test_the_parts_fit(task: OfflineRL) -> None:
    assert isinstance(task.learner, ConsistencyBC)
    assert len(task.dataset) == 100
    assert (task.spaces.obs_dim, task.spaces.action_dim) == (11, 3)
    assert task.env == Environment("Hopper-v5")
    assert task.references is not None
    torch.testing.assert_close(task.learner.policy.obs_mean, task.dataset.observations.mean(0))


def test_a_time_limit_is_the_configured_one_the_recorded_one_or_d4rls() -> None:
    """Gymnasium's pen goes on for twice as long as D4RL's, which would double the score."""
    pen = compose("env=pen-expert", "agent=bc").env
    file = DatasetInfo(source="file", env_id="AdroitHandPen-v1")
    minari = replace(
        file, source="minari", max_episode_steps=200, env_kwargs={"reward_type": "dense"}
    )
    for info, limit in ((file, 100), (DatasetInfo(source="d4rl"), 100), (minari, 200)):
        environment = evaluation_env(pen, info)
        assert (environment.id, environment.max_episode_steps) == ("AdroitHandPen-v1", limit)
        own = replace(pen, max_episode_steps=7)
        assert evaluation_env(own, info).max_episode_steps == 7
    assert evaluation_env(pen, minari).kwargs == {"reward_type": "dense"}
    pytest.importorskip("gymnasium_robotics")
    made = evaluation_env(pen, file).make().spec
    assert made is not None
    assert made.max_episode_steps == 100


def test_the_description_says_what_a_result_needs(task: OfflineRL) -> None:
    described = json.loads(json.dumps(task.description(), allow_nan=False))
    assert (described["task"], described["agent"], described["seed"]) == ("custom", "bc", 0)
    assert described["environment"]["id"] == "Hopper-v5"
    assert described["dataset"]["transitions"] == 100
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


@pytest.mark.parametrize(("cut_by", "limit"), [("timeouts", 1000.0), ("terminals", 39.404)])
def test_values_of_a_task_without_end_may_exceed_the_returns_of_its_pieces(
    tmp_path: Path, write_data: Callable[..., Path], cut_by: str, limit: float
) -> None:
    """A reward of 1 for ever is worth 1/(1 − γ) = 100; four steps of it return 3.94."""
    columns = {"terminals": np.zeros(100, bool), "rewards": np.ones(100, np.float32)}
    columns[cut_by] = np.arange(100) % 4 == 3
    path = write_data(tmp_path / "pieces.hdf5", **columns)
    given = (f"dataset.path={path}", "env.id=Hopper-v5", "agent=diffusion_ql")
    bound, _ = OfflineRL(compose(*given), CPU).learner.limits()["critic/q_max"]
    assert bound == pytest.approx(limit, rel=1e-4)


def test_seeds_of_evaluations_do_not_meet(
    tmp_path: Path, write_data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The final episodes are not those that the best checkpoint was chosen by, of any seed."""
    path, used = write_data(tmp_path / "mine.hdf5"), []
    monkeypatch.setattr(
        OfflineRL, "score", lambda self, n, seed: used.append(range(seed, seed + n)) or None
    )
    for seed in (0, 1, 2):
        config = compose(f"dataset.path={path}", "env.id=Hopper-v5", f"seed={seed}")
        task = OfflineRL(config, CPU)
        with pytest.raises((AttributeError, TypeError)):
            task.evaluate(1)
        task.final_score()
    assert len(used) == 6
    seeds = [s for span in used for s in span]
    assert len(set(seeds)) == len(seeds)


def test_the_reward_transform_reaches_training_but_not_the_info(
    tmp_path: Path, write_data: Callable[..., Path]
) -> None:
    path = write_data(tmp_path / "mine.hdf5")
    config = compose(f"dataset.path={path}", "env.id=Hopper-v5", "env.reward=normalize")
    task = OfflineRL(config, CPU)
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
    tmp_path: Path,
    write_data: Callable[..., Path],
    changes: dict[str, Any],
    env_id: str | None,
    reason: str,
) -> None:
    path = write_data(tmp_path / "mine.hdf5", **changes)
    overrides = [f"env.id={env_id}"] if env_id else []
    with pytest.raises(InputError, match=reason) as error:
        OfflineRL(compose(f"dataset.path={path}", *overrides), CPU)
    assert "\n" not in str(error.value)


def test_no_task_and_no_algorithm_are_refused() -> None:
    with pytest.raises(InputError, match="no task: give env=NAME"):
        OfflineRL(compose(), CPU)
    config = compose()
    config.agent.algorithm = "sac"
    with pytest.raises(InputError, match="agent 'sac' is not installed; there are: ac, bc"):
        build_agent(config, None)  # type: ignore[arg-type]


def test_the_configured_environment_comes_before_the_recorded_one() -> None:
    env = EnvConfig("x", d4rl_env_id="Hopper-v4", kwargs={"b": 2})
    keys = ["goal", "position"]
    recorded = DatasetInfo(
        *("x", "minari"), env_id="Hopper-v5", env_kwargs={"a": 1}, observation_keys=keys
    )
    both = Environment("Hopper-v5", {"a": 1, "b": 2}, [], keys, from_data=True)
    assert evaluation_env(env, recorded) == both
    d4rl = evaluation_env(env, DatasetInfo(source="d4rl"), parallel=3)
    no_goal = ["achieved_goal", "observation"]
    assert d4rl == Environment("Hopper-v4", {"b": 2}, [], no_goal, parallel=3)
    env.id = "Mine-v0"
    assert evaluation_env(env, recorded) == Environment("Mine-v0", {"b": 2}, [], keys)


def test_limits_of_the_environment_reach_data_without_timeouts(
    tmp_path: Path, write_data: Callable[..., Path], register: Callable[..., str]
) -> None:
    columns = {"timeouts": None, "terminals": np.zeros(100, bool)}
    path = write_data(tmp_path / "mine.hdf5", 3, 1, **columns)
    given = (f"dataset.path={path}", f"env.id={register(limit=20)}", "agent=bc")
    task = OfflineRL(compose(*given), CPU)
    assert (len(task.dataset), task.info.episodes) == (95, 5)
    task = OfflineRL(compose(*given, "env.max_episode_steps=10"), CPU)
    assert (len(task.dataset), task.info.episodes) == (90, 10)
    assert task.env is not None
    assert task.env.max_episode_steps == 10


def test_without_an_environment_it_trains_and_saves_a_policy(
    tmp_path: Path, write_data: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    actions = np.float32(rng.uniform([-0.5, -3], [0.5, 9], size=(100, 2)))
    path = write_data(tmp_path / "robot.hdf5", 3, 2, actions=actions)
    run = tmp_path / "run"
    given = (f"dataset.path={path}", "env.id=none", "agent=bc", "progress=false")
    train(compose(*given, "steps=4", "eval.every=2", "batch_size=8", f"run_dir={run}"), [])
    policy = ConsistencyPolicy.load(run / "policy.safetensors")
    assert policy.act(np.zeros(3, np.float32)).shape == (2,)
    low, high = actions[:, 1].min().item(), actions[:, 1].max().item()
    record = read_record(RunDirectory.existing(run))
    assert record.spaces == (3, [-1.0, low], [1.0, high])
    with pytest.raises(InputError, match=r"trained without an environment; give env.id=ID"):
        record.environment()
    results = json.loads((run / "results.json").read_text())
    assert (results["finished"], results["environment"]) == (True, None)
    assert (results["last"]["step"], results["best"]["step"]) == (4, 4)
    assert (results["last"]["episodes"], results["last"]["mean_return"]) == (0, None)
    for key in ("online.steps=5", "seeds=2"):
        with pytest.raises(InputError, match=r"needs an environment, got env.id=none"):
            OfflineRL(compose(*given[:2], key), CPU)


def test_a_value_that_is_not_finite_in_an_evaluation_is_counted_and_never_best(
    tmp_path: Path, write_data: Callable[..., Path], register: Callable[..., str]
) -> None:
    path, run, episodes = write_data(tmp_path / "mine.hdf5", 3, 1), tmp_path / "run", []

    def reward(self: Any) -> float:
        """In the first evaluation one episode of two fails, as a simulator's first may."""
        if self.t == 1:
            episodes.append(self.first_seed)
        return np.nan if len(episodes) <= 1 and self.t > 1 else 1.0

    own = (f"dataset.path={path}", f"env.id={register({'reward': reward})}", "agent=bc")
    sizes = ("steps=6", "eval.every=2", "batch_size=8", "progress=false", "eval.parallel=1")
    train(compose(*own, *sizes, f"run_dir={run}"), [])
    results = json.loads((run / "results.json").read_text())
    assert [e["eval/failed_episodes"] for e in results["evaluations"]] == [1.0, 0.0, 0.0]
    assert [e["eval/mean_return"] for e in results["evaluations"]] == [20.0] * 3  # of the others
    assert (results["finished"], results["best"]["step"], results["last"]["step"]) == (True, 6, 6)


def test_a_module_that_only_files_name_is_not_imported(
    tmp_path: Path, write_data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the user repeats it; whoever writes the files chooses nothing that runs."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stranger.py").write_text("open('called', 'w')\nraise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    path = write_data(tmp_path / "mine.hdf5")
    with h5py.File(path, "a") as file:
        file.attrs["env_id"] = "stranger:Hopper-v5"
    with pytest.raises(InputError, match=r"module would be imported.* env.id=stranger:Hopper-v5"):
        OfflineRL(compose(f"dataset.path={path}", "agent=bc"), CPU)

    run, small = tmp_path / "run", ("agent=bc", "steps=2", "batch_size=8", "progress=false")
    train(compose(f"dataset.path={path}", "env.id=Hopper-v5", *small, f"run_dir={run}"), [])
    results = json.loads((run / "results.json").read_text())
    results["environment"] |= {"id": "stranger:Hopper-v5", "from_data": False}
    (run / "results.json").write_text(json.dumps(results))
    record = read_record(RunDirectory.existing(run))
    with pytest.raises(InputError, match="module would be imported"):
        record.environment().make()
    assert record.environment("Hopper-v5").make().observation_space.shape == (11,)

    assert not (tmp_path / "called").exists()
    with pytest.raises(SystemExit):
        record.environment("stranger:Hopper-v5")  # the user has named it
    assert (tmp_path / "called").exists()


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


def test_data_fit_the_spaces_of_their_environment() -> None:
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(9, 4)), rng.uniform(-1, 1, size=(9, 2)), np.zeros(9), np.zeros(9)
    dataset = TransitionDataset.from_arrays(*columns)
    observations, actions = Box(-np.inf, np.inf, (4,)), Box(-1, 1, (2,))
    check_fits(dataset, observations, actions)
    with pytest.raises(InputError, match=r"observations have 4 entries, expected.*3"):
        check_fits(dataset, Box(-np.inf, np.inf, (3,)), actions)
    with pytest.raises(InputError, match="actions have 2 entries"):
        check_fits(dataset, observations, Discrete(2))
    dataset.actions[5, 1] = 1.00005  # rounding
    check_fits(dataset, observations, actions)
    dataset.actions[5, 1] = 1.1
    with pytest.raises(InputError, match=r"action 5 of the dataset.*1\.1.*expected between"):
        check_fits(dataset, observations, actions)
