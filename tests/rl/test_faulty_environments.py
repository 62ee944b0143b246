"""Environments with every kind of fault: what becomes of the run. No update is ever lost."""

from __future__ import annotations

import logging
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.rollout_process import end_process
from cmpolicy.train import train
from cmpolicy.training.protocols import EvaluationFailed
from cmpolicy.training.run_directory import RunDirectory

MODULE = """
import os, sys, time
import gymnasium as gym, numpy as np, torch
from gymnasium.spaces import Box

class Plain(gym.Env):
    observation_space, action_space = Box(-np.inf, np.inf, (3,)), Box(-1, 1, (1,))
    alive = 0
    def seen(self): return np.float32([self.x, self.t / 10, 1.0])
    def reset(self, seed=None, options=None):
        super().reset(seed=seed); self.x, self.t = float(self.np_random.normal()), 0
        return self.seen(), {}
    def reward(self): return -self.x**2
    def step(self, a):
        self.x += 0.1 * float(a[0]); self.t += 1
        return self.seen(), self.reward(), False, False, {}

class RaisesInReset(Plain):
    def reset(self, **options): raise ValueError("no\\nroad")
class RaisesInStep(Plain):
    def step(self, a): return super().step(a) if self.t < 2 else {}["sensor"]
class Hangs(Plain):
    def step(self, a): return super().step(a) if self.t < 2 else time.sleep(3600)
class NanReward(Plain):
    def reward(self): return float("nan") if self.t == 2 else 1.0
class NanObservation(Plain):
    def seen(self): return super().seen() * (np.nan if self.t == 2 else 1)
class ColumnReward(Plain):
    def reward(self): return np.array([1.0])
class Single(Plain):
    def __init__(self):
        if Single.alive: raise RuntimeError("port 2000 is already in use")
        Single.alive = 1
    def close(self): Single.alive = 0
class SeedsTorch(Plain):
    def __init__(self): torch.manual_seed(3)
    def reset(self, **options): torch.manual_seed(5); return super().reset(**options)
class Exits(Plain):
    def step(self, a): return super().step(a) if self.t < 2 else os._exit(3)
class Leaves(Plain):
    def step(self, a): return super().step(a) if self.t < 2 else sys.exit(3)

for kind in Plain.__subclasses__() + [Plain]:
    gym.register(f"{kind.__name__}-v0", entry_point=kind.__module__ + ":" + kind.__name__,
                 max_episode_steps=10, disable_env_checker=True)
gym.register("Endless-v0", entry_point="faulty:Plain", disable_env_checker=True)
"""

# name of the environment: (overrides, what the evaluations of a run say)
APART = ("eval.timeout=1", "eval.every=4")
STEP_3 = "environment {}-v0 failed in step 3 of the episode of seed"
FAULTS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "RaisesInReset": ((), "environment RaisesInReset-v0 failed in reset of the episode of seed"),
    "RaisesInStep": ((), STEP_3.format("RaisesInStep")),
    "Hangs": (APART, "environment faulty:Hangs-v0 gave no answer for 1 s in step 3"),
    "NanReward": ((), None),
    "NanObservation": ((), None),
    "ColumnReward": ((), None),
    "Endless": ((), None),
    "Single": (("eval.episodes=3",), None),
    "SeedsTorch": ((), None),
    "Exits": (
        APART,
        "environment faulty:Exits-v0 ended its process in step 3 of the evaluation, ex",
    ),
    "Leaves": ((), STEP_3.format("Leaves") + " .*: SystemExit: 3"),
}
FAILED_EPISODES = {"NanReward", "NanObservation"}


@pytest.fixture
def start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compose: Callable[..., RLConfig],
    write_data: Callable[..., Path],
) -> Callable[..., RunDirectory]:
    """start(name, *overrides): a run of 4 updates with an evaluation after every second one."""
    (tmp_path / "faulty.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(logging.getLogger("cmpolicy"), "propagate", True)
    data = write_data(tmp_path / "data.hdf5", 3, 1)

    def started(name: str, *overrides: str) -> RunDirectory:
        run = tmp_path / name
        train(
            compose(
                *(f"dataset.path={data}", f"env.id=faulty:{name}-v0", "agent=bc", f"run_dir={run}"),
                *("agent.policy.hidden=[4]", "batch_size=4", "steps=4", "eval.every=2"),
                *("eval.episodes=1", "eval.final_episodes=1", "progress=false", *overrides),
            ),
            [],
        )
        return RunDirectory(run)

    return started


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    modules: dict[str, torch.Tensor] = run.load_checkpoint("last")["learner"]["modules"]
    return modules


@pytest.mark.parametrize("name", FAULTS)
def test_training_is_as_with_a_sound_environment(
    start: Callable[..., RunDirectory], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    sound, (overrides, failure) = start("Plain"), FAULTS[name]
    caplog.clear()
    run = start(name, *overrides)
    trained = weights(run)
    assert all(torch.equal(value, trained[key]) for key, value in weights(sound).items())
    assert run.load_checkpoint("last")["step"] == 4
    results = run.read_results()
    assert results["finished"]
    assert (run.path / "policy.safetensors").exists()
    evaluations = 1 if overrides == APART else 2
    assert results["failed_evaluations"] == (evaluations if failure else 0)
    for score in (results["last"], results["best"]):
        assert bool(score["failure"]) == bool(failure)
        assert score["failed_episodes"] == (name in FAILED_EPISODES)
    if failure:
        assert sum("evaluation at step" in r.getMessage() for r in caplog.records) == evaluations
        assert re.search(failure, results["last"]["failure"])
        assert "\n" not in results["last"]["failure"]
    elif name not in FAILED_EPISODES:
        assert np.isfinite(results["last"]["mean_return"])
    if name == "Endless":
        assert results["last"]["mean_length"] == 1000


@pytest.mark.parametrize("tolerated", [0, 1])
def test_one_failure_more_than_is_tolerated_ends_the_run(
    start: Callable[..., RunDirectory], tmp_path: Path, tolerated: int
) -> None:
    with pytest.raises(EvaluationFailed, match="No update is lost; to go on: python -m") as error:
        start("RaisesInStep", f"eval.tolerated_failures={tolerated}")
    assert f"{tolerated + 1} in succession, of which {tolerated} are" in str(error.value)
    assert RunDirectory(tmp_path / "RaisesInStep").load_checkpoint("last")["step"] == 2 * (
        tolerated + 1
    )


def test_a_process_apart_gives_the_same_score_and_leaves_nothing(
    start: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    here = start("Plain").read_results()["last"]
    apart = start("Plain", *APART, "eval.timeout=60", f"run_dir={tmp_path}/apart")
    assert apart.read_results()["last"] == here
    [process] = multiprocessing.active_children()
    end_process()
    assert not process.is_alive()


def test_an_exception_while_it_is_made_is_no_wrong_input(
    start: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    own = tmp_path / "own.py"
    broken: Any = ("raise ValueError('no\\nroad')", "def Own(): raise TypeError('no road')")
    for code, said in zip(broken, ("failed while it was imported", "was made"), strict=True):
        own.write_text(f"import gymnasium\n{code}\ngymnasium.register('Own-v0', Own)\n")
        with pytest.raises(EvaluationFailed, match=f"{said}.*: .*no road"):
            start("Plain", "env.id=own:Own-v0")
