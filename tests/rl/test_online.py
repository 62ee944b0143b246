"""An agent that goes on in the environment: what it learns from, and that it can be resumed."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cmpolicy.agents import ConsistencyAC
from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.errors import InputError
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.online import OnlineData
from cmpolicy.rl.rollout import EnvironmentFailure
from cmpolicy.rl.task import OfflineRL
from cmpolicy.train import train
from cmpolicy.training.checkpoint import load_state

SMALL = (
    *("agent.policy.hidden=[8]", "agent.critic_hidden=[8]", "batch_size=8", "progress=false"),
    *("eval.episodes=1", "eval.final_episodes=1", "threads=1", "log_every=2"),
)
RUN = ("steps=6", "online.steps=60", "eval.every=1000", "checkpoint_every=5", *SMALL)


def compose(*overrides: str) -> RLConfig:
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = OmegaConf.to_object(hydra.compose("rl", list(overrides)))
    assert isinstance(config, RLConfig)
    return config


@pytest.fixture(scope="module")
def hopper(
    tmp_path_factory: pytest.TempPathFactory, write_data: Callable[..., Path]
) -> tuple[str, str]:
    path = write_data(tmp_path_factory.mktemp("data") / "hopper.hdf5")
    return f"dataset.path={path}", "env.id=Hopper-v5"


def task_of(*overrides: str) -> tuple[OfflineRL, OnlineData]:
    torch.manual_seed(0)
    task = OfflineRL(compose(*SMALL, *overrides), torch.device("cpu"))
    assert isinstance(task.dataset, OnlineData)
    return task, task.dataset


def results_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())  # type: ignore[no-any-return]


# What it learns from --------------------------------------------------------------------------


@pytest.mark.parametrize("updates_per_step", [1, 3])
def test_the_environment_is_stepped_between_updates_after_the_offline_ones(
    hopper: tuple[str, str], updates_per_step: int
) -> None:
    task, data = task_of(
        *hopper, "steps=4", "online.steps=5", f"online.updates_per_step={updates_per_step}"
    )
    sizes = []
    for _ in range(task.config.updates):
        task.learner.update(data.sample(8))
        sizes.append(data.buffer.size)
    assert sizes == [0] * 4 + [k for k in range(1, 6) for _ in range(updates_per_step)]


def test_the_datas_best_episodes_count_for_more_once_the_environment_has_begun(
    hopper: tuple[str, str],
) -> None:
    changes = ("agent.return_temperature=10", "online.return_temperature=1e-4")
    _, data = task_of(*hopper, "steps=2", "online.steps=5", *changes)
    recorded, episodes = data.offline, data.offline.episode_ends.cumsum(0)
    best = recorded.episode_returns().argmax()

    def imitated() -> set[int]:
        rows = data.sample(400).imitated_observations[:200]  # the data's half, if there is another
        found = (rows[:, None] == recorded.observations).all(2).int().argmax(1)
        ends = recorded.episode_ends[found].long()
        return set((episodes[found] - ends).tolist())

    assert len(imitated()) == len(imitated()) == 5
    assert imitated() == {int(best)}
    assert data.buffer.size == 1


def test_what_is_stored_is_what_the_environment_did(hopper: tuple[str, str]) -> None:
    task, data = task_of(*hopper, "steps=0", "online.steps=150")
    for _ in range(150):
        data.act()
    assert isinstance(task.learner, ConsistencyAC)
    stored, episode, observation = data.buffer.online, 0, None
    env = gymnasium.make("Hopper-v5")
    for t in range(150):
        if observation is None:
            observation, _ = env.reset(seed=data.first_seed + episode)
        np.testing.assert_array_equal(stored.observations[t], np.float32(observation))
        observation, reward, terminated, truncated, _ = env.step(stored.actions[t].numpy())
        assert float(stored.rewards[t]) == pytest.approx(float(reward), rel=1e-6)
        np.testing.assert_array_equal(stored.next_observations[t], np.float32(observation))
        assert float(stored.terminals[t]) == terminated
        if terminated or truncated:
            observation, episode = None, episode + 1
    assert episode == len(data.returns) >= 1
    assert len(np.unique(stored.actions.numpy(), axis=0)) == 150  # it explores


@pytest.fixture
def own(
    tmp_path: Path, register: Any, write_data: Callable[..., Path]
) -> Callable[..., OnlineData]:
    """own(methods, *overrides): online data of such an environment, with targets over n steps."""
    path = write_data(tmp_path / "own.hdf5", 3, 1)

    def data_of(methods: dict[str, Any], *overrides: str) -> OnlineData:
        where = (f"dataset.path={path}", f"env.id={register(methods)}", "agent=diffusion_ql")
        return task_of(*where, *overrides)[1]

    return data_of


def test_a_time_limit_ends_an_episode_but_masks_nothing(own: Callable[..., OnlineData]) -> None:
    data = own({}, "online.steps=30", "agent.n_step=10", "agent.discount=0.9")
    for _ in range(25):
        data.act()
    terminals, rows = data.buffer.online.terminals, data.buffer.online
    assert len(data.returns) == 1
    assert float(terminals[19]) == 0.0
    assert float(terminals[18]) == pytest.approx(1 - 0.9)  # two steps to the cut
    assert torch.equal(rows.next_observations[15], rows.next_observations[19])
    assert not torch.equal(rows.next_observations[19], rows.observations[20])  # it begins anew


@pytest.mark.parametrize("what", ["reward", "seen"])
def test_what_is_not_finite_never_enters_the_buffer(
    own: Callable[..., OnlineData], what: str
) -> None:
    """The third episode fails in its fifth step; nothing is lost of those around it."""

    def glitch(self: Any) -> Any:
        bad = self.t == 5 and self.first_seed == data.first_seed + 2
        kept = getattr(super(type(self), self), what)()
        return kept * np.float32(np.nan) if bad else kept

    data = own({}, "online.steps=100")
    type(data.env.unwrapped).reward = type(data.env.unwrapped).reward  # a name of its own
    setattr(type(data.env.unwrapped), what, glitch)
    for _ in range(66):
        data.act()
    assert (data.failed, data.begun, len(data.returns)) == (1, 5, 3)
    assert data.buffer.size == 65  # 20, 20, 4, 20 and the one that has begun
    assert all(column.isfinite().all() for column in data.buffer.online)
    assert np.isfinite(data.returns).all()
    assert data.description()["failed_episodes"] == 1


def test_an_environment_that_only_fails_ends_the_run(own: Callable[..., OnlineData]) -> None:
    data = own({"reward": lambda self: float("inf")}, "online.steps=100")
    for _ in range(9):
        data.act()
    with pytest.raises(EnvironmentFailure, match=r"10 episodes in succession failed.*not finite"):
        data.act()
    assert data.buffer.size == 0


def test_an_exception_costs_one_episode_and_no_update(own: Callable[..., OnlineData]) -> None:
    """The second episode raises in its fifth step; the environment is made again."""

    def step(self: Any, action: Any) -> Any:
        if self.t == 4 and self.first_seed == data.first_seed + 1:
            raise ValueError("the simulator lost its licence")
        return super(type(self), self).step(action)

    data = own({"step": step}, "online.steps=100")
    first = data.env
    for _ in range(46):
        data.act()
    assert (data.failed, data.begun, len(data.returns)) == (1, 4, 2)
    assert data.buffer.size == 45  # 20, 4, 20 and the one that has begun
    assert data.env is not first


def test_seeds_are_what_old_simulators_take(hopper: tuple[str, str]) -> None:
    used = []
    for seed in (0, 1, 1000, 2**31 - 1):
        task, data = task_of(*hopper, "online.steps=5", f"seed={seed}")
        used += [data.first_seed, task.eval_seed(0), task.final_seed]
    assert len(set(used)) == len(used)
    assert all(0 <= seed <= 2**31 - 2**20 for seed in used)
    assert all((seed >= 2**30) == (i % 3 == 0) for i, seed in enumerate(used))


def test_rewards_are_transformed_as_the_datas(hopper: tuple[str, str]) -> None:
    _, plain = task_of(*hopper, "online.steps=5")
    _, shifted = task_of(*hopper, "online.steps=5", "env.reward=cql_antmaze")
    for data in (plain, shifted):
        torch.manual_seed(1)
        data.learner.load_state_dict(plain.learner.state_dict())
        for _ in range(5):
            data.act()
    torch.testing.assert_close(
        shifted.buffer.online.rewards, 4 * (plain.buffer.online.rewards - 0.5)
    )
    assert shifted.rewards == plain.rewards  # what is told is the environment's


def test_returns_beyond_the_datas_widen_the_limit_of_values(hopper: tuple[str, str]) -> None:
    task, data = task_of(*hopper, "online.steps=5", "agent=diffusion_ql")
    before = task.learner.limits()["critic/q_max"][0]
    data.rewards = [1.0, 2.0]
    data.finish_episode()
    assert task.learner.limits()["critic/q_max"][0] == before
    data.rewards = [0.0, 1e4]
    data.finish_episode()
    assert task.learner.limits()["critic/q_max"][0] == 10e4
    assert data.returns == [3.0, 1e4]


def test_cloning_cannot_go_on_in_the_environment(hopper: tuple[str, str]) -> None:
    config = compose(*hopper, "agent=bc", "online.steps=5")
    with pytest.raises(InputError, match=r"online\.steps=5 with agent bc, which does not learn"):
        OfflineRL(config, torch.device("cpu"))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["online.steps=-1"], "need online.steps ≥ 0 .* got -1 and 0.02"),
        (["online.return_temperature=0"], "online.return_temperature > 0, got 0 and 0"),
        (["online.updates_per_step=0"], "updates_per_step must be at least 1"),
        (["steps=0"], "steps must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(overrides: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compose(*overrides)


# A run, and a run that goes on ----------------------------------------------------------------


def finished(path: Path, *overrides: str) -> Path:
    train(compose(*overrides, f"run_dir={path}"), [])
    return path


def go_on(path: Path, *overrides: str) -> None:
    torch.manual_seed(12345)
    train(compose(f"resume={path}", *overrides), [f"resume={path}", *overrides])


def assert_equal_runs(a: Path, b: Path) -> None:
    states = [load_state(run / "checkpoints" / "last.safetensors") for run in (a, b)]
    left, right = (
        {**s["learner"]["modules"], **s["dataset"]["buffer"]["online"], **s["rng"]} for s in states
    )
    for state in (left, right):
        state.pop("cuda")
    assert [k for k in left if not torch.equal(left[k], right[k])] == []
    assert states[0]["evaluations"] == states[1]["evaluations"]
    for key in ("last", "evaluations", "online"):
        assert results_of(a)[key] == results_of(b)[key]


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture(scope="module")
def whole(hopper: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("run") / "whole", *RUN, *hopper)


def test_results_tell_data_and_environment_apart(whole: Path) -> None:
    results = results_of(whole)
    assert results["dataset"]["transitions"] == 100
    assert results["dataset"]["comparable"] is False
    online = results["online"]
    assert (online["begins_at_update"], online["environment_steps"]) == (6, 60)
    assert online["episodes"] >= 1
    assert (results["finished"], results["last"]["step"]) == (True, 66)
    assert [e["step"] for e in results["evaluations"]] == [6, 66]  # before and after
    assert (whole / "learning_curve.png").stat().st_size > 5000
    header = (whole / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"online/environment_steps", "online/episode_return"} <= set(header)


@pytest.mark.parametrize("at", [4, 37])
def test_killed_at_any_update_it_goes_on_bit_for_bit(
    hopper: tuple[str, str],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    update = ConsistencyAC.update

    def deadly(self: ConsistencyAC, batch: Any) -> Any:
        if int(self.step) == at:
            raise Killed
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ConsistencyAC, "update", deadly)
        with pytest.raises(Killed):
            finished(tmp_path / "cut", *RUN, *hopper)
    go_on(tmp_path / "cut")
    assert_equal_runs(tmp_path / "cut", whole)


def test_a_finished_offline_run_goes_on_online(
    hopper: tuple[str, str], whole: Path, tmp_path: Path
) -> None:
    run = finished(tmp_path / "offline", *RUN, *hopper, "online.steps=0")
    assert "online" not in results_of(run)
    before = {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    go_on(run, "online.steps=60")
    assert_equal_runs(tmp_path / "offline-online", whole)
    assert before == {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    assert "online" not in results_of(run)


def test_the_guidance_may_be_stronger_in_the_environment(
    hopper: tuple[str, str], whole: Path, tmp_path: Path
) -> None:
    run = finished(tmp_path / "offline", *RUN, *hopper, "online.steps=0")
    go_on(run, "online.steps=60", "agent.radius=3")
    run = tmp_path / "offline-online"
    states = [load_state(path / "checkpoints" / "last.safetensors") for path in (run, whole)]
    stronger, alike = (state["learner"]["modules"] for state in states)
    assert not all(torch.equal(alike[key], value) for key, value in stronger.items())
    assert "  radius: 3.0\n" in (run / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("steps=7", "has begun after 6 updates, steps=7 cannot change that"),
        ("online.steps=30", "given 60 steps, more than online.steps=30"),
        ("online.updates_per_step=2", "cannot change in a run that has begun"),
    ],
)
def test_what_has_happened_cannot_change(whole: Path, change: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        go_on(whole, change)


def test_an_environment_that_does_not_repeat_itself_begins_anew(
    own: Callable[..., OnlineData],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("cmpolicy"), "propagate", True)
    seen = itertools.count()
    restless = {"seen": lambda self: np.full(3, next(seen) if self.t else 0, np.float32)}
    data, other = (own(restless, "online.steps=8", "agent.n_step=3") for _ in range(2))
    for _ in range(4):
        data.act()
    other.load_training_state(data.training_state())
    assert "does not repeat itself" in caplog.text
    rows = other.buffer.online.rewards[:4].clone()
    other.act()
    assert torch.equal(other.buffer.online.rewards[:4], rows)  # nothing is summed across
    assert other.buffer.online.observations[4].tolist() == [0.0] * 3
    assert other.begun == 2
