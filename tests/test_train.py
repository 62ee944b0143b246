"""`python -m cmpolicy.train` from outside: a whole run, killed and stopped runs, sweeps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from cmpolicy import ConsistencyPolicy
from cmpolicy.rl.task import OfflineRL
from cmpolicy.train import train as command
from cmpolicy.training.checkpoint import load_state
from cmpolicy.training.loop import Evaluation

ROOT = Path(__file__).parents[1]
MINARI = ROOT.parent / "shared" / "data" / "minari"
STEPS = 300
TINY = (
    *("env=hopper-medium", "dataset.source=sample", "threads=1", "progress=false"),
    *("batch_size=32", "agent.policy.hidden=[8,8]", "eval.episodes=2", "eval.final_episodes=2"),
)
RUN = (*TINY, f"steps={STEPS}", "log_every=10", "eval.every=90", "checkpoint_every=25")


def start(place: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A training, one thread, in the working directory `place`."""
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "cmpolicy.train", *arguments],
        cwd=place,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(place: Path, *arguments: str, code: int = 0, **environment: str) -> tuple[str, str]:
    """A training to its end: (stdout, stderr)."""
    process = start(place, *arguments, **environment)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def interrupt(process: subprocess.Popen[str], run: Path, signum: signal.Signals) -> tuple[int, str]:
    """Send `signum` in mid-run, some updates after a checkpoint: (exit code, stderr)."""
    last, seen = run / "checkpoints" / "last.safetensors", set()
    deadline = time.monotonic() + 240
    while len(seen) < 3:  # at step 0, 25, 50
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        if last.exists():
            seen.add(last.stat().st_mtime_ns)
        time.sleep(0.002)
    time.sleep(0.03)
    process.send_signal(signum)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def results_of(run: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    results = json.loads((run / "results.json").read_text(), parse_constant=refuse)
    assert isinstance(results, dict)
    return results


@pytest.fixture
def assert_same_results(assert_equal_runs: Any) -> Callable[[Path, Path], None]:
    """assert_same_results(a, b): everything but clocks and dates, bit for bit."""

    def compare(a: Path, b: Path) -> None:
        assert_equal_runs(a, b)
        assert_weights_equal(a, b)
        for key in ("last", "best", "evaluations", "finished"):
            assert results_of(a)[key] == results_of(b)[key]

    return compare


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """whole(agent): the directory of an uninterrupted run, and what it printed."""
    done: dict[str, tuple[Path, str, str]] = {}

    def run(agent: str) -> tuple[Path, str, str]:
        if agent not in done:
            place = tmp_path_factory.mktemp(agent)
            done[agent] = (place / "run", *train(place, *RUN, f"agent={agent}", "run_dir=run"))
        return done[agent]

    return run


# A whole run ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_leaves_what_the_readme_promises(whole: Any) -> None:
    run, out, err = whole("ac")
    assert sorted(p.name for p in run.parent.iterdir()) == ["run"]
    names = {"config.yaml", "metrics.csv", "results.json", "learning_curve.png", "checkpoints"}
    assert {p.name for p in run.iterdir()} == names | {
        "policies",
        "policy.safetensors",
        "tensorboard",
    }
    assert sorted(p.stem for p in (run / "checkpoints").iterdir()) == ["best", "last", "previous"]
    assert not list(run.rglob("*.tmp"))
    assert out.splitlines()[-2:] == ["picture: run/learning_curve.png", "run: run"]
    assert "NOT comparable" in err.split("run: run")[0]  # said before the training begins
    assert "NOT comparable" in err.split("last checkpoint:")[1]  # and with the scores
    assert (run / "learning_curve.png").stat().st_size > 5000


@pytest.mark.slow
def test_results_say_what_was_obtained_and_how(whole: Any) -> None:
    run, _, _ = whole("ac")
    results = results_of(run)
    assert results["finished"] is True
    assert (results["task"], results["agent"], results["seed"]) == ("hopper-medium", "ac", 0)
    assert results["device"] == "cpu"
    assert results["updates_per_second"] > 0
    assert {"cmpolicy", "torch", "gymnasium", "mujoco", "numpy"} <= results["versions"].keys()
    assert results["versions"]["torch"] == torch.__version__
    dataset = results["dataset"]
    assert (dataset["source"], dataset["comparable"]) == ("sample", False)
    assert dataset["transitions"] > 49_000
    assert results["environment"]["id"] == "Hopper-v4"
    assert [e["step"] for e in results["evaluations"]] == [90, 180, 270, 300]
    low, high = results["environment"]["reference_returns"]
    for which in ("last", "best"):
        score = results[which]
        assert score["episodes"] == 2
        expected = 100 * (score["mean_return"] - low) / (high - low)
        assert score["normalized_score"] == pytest.approx(expected)
        assert score["return_standard_error"] >= 0
    assert results["last"]["step"] == STEPS
    best = max(results["evaluations"], key=lambda e: e["eval/normalized_score"])
    assert results["best"]["step"] == best["step"]
    assert load_state(run / "checkpoints" / "best.safetensors")["step"] == best["step"]


@pytest.mark.slow
def test_the_saved_policy_is_the_average_of_the_last_checkpoint(whole: Any) -> None:
    run, _, _ = whole("ac")
    policy = ConsistencyPolicy.load(run / "policy.safetensors")
    modules = load_state(run / "checkpoints" / "last.safetensors")["learner"]["modules"]
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, modules[f"average_policy.{name}"])
    action = policy.act(np.zeros(11))
    assert action.shape == (3,)
    assert (np.abs(action) <= 1).all()


def test_the_best_is_labelled_with_its_own_step_when_scores_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: Any
) -> None:
    config = compose(*TINY, "agent=bc", "steps=6", "eval.every=2", f"run_dir={tmp_path / 'run'}")
    scalars = {"eval/score_standard_error": 0.0}  # nobody reaches the goal, as in AntMaze
    monkeypatch.setattr(OfflineRL, "evaluate", lambda self, step: Evaluation(step, 0.0, scalars))
    command(config, [])
    step = load_state(tmp_path / "run" / "checkpoints" / "best.safetensors")["step"]
    assert results_of(tmp_path / "run")["best"]["step"] == step


# Killed, stopped, resumed ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ac", "bc"])
def test_a_run_killed_in_the_middle_ends_in_the_same_weights(
    whole: Any, tmp_path: Path, agent: str, assert_same_results: Any
) -> None:
    run = tmp_path / "run"
    process = start(tmp_path, *RUN, f"agent={agent}", "run_dir=run")
    code, _ = interrupt(process, run, signal.SIGKILL)
    assert code == -signal.SIGKILL
    reached = load_state(run / "checkpoints" / "last.safetensors")["step"]
    assert 0 < reached < STEPS
    assert results_of(run)["finished"] is False
    _, err = train(tmp_path, "resume=run")
    assert f"going on from step {reached} of {STEPS}" in err
    assert_same_results(run, whole(agent)[0])


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "signum"), [("ac", signal.SIGTERM), ("bc", signal.SIGINT)])
def test_a_run_stopped_by_a_signal_says_how_to_go_on(
    whole: Any, tmp_path: Path, agent: str, signum: signal.Signals, assert_same_results: Any
) -> None:
    run = tmp_path / "run"
    process = start(tmp_path, *RUN, f"agent={agent}", "run_dir=run")
    code, err = interrupt(process, run, signum)
    assert code == 128 + signum
    assert "Traceback" not in err
    reached = load_state(run / "checkpoints" / "last.safetensors")["step"]
    line = err.strip().splitlines()[-1]
    assert line.startswith(f"stopped at step {reached} of {STEPS}; to go on: ")
    command = line.split("to go on: python -m cmpolicy.train ")[1]
    assert command == "resume=run"
    train(tmp_path, command)
    assert_same_results(run, whole(agent)[0])


@pytest.mark.slow
def test_a_run_killed_among_steps_of_the_environment_ends_in_the_same_weights(
    tmp_path: Path, assert_same_results: Any
) -> None:
    online = (*RUN, "steps=30", "online.steps=120", "agent.critic_hidden=[8]")
    train(tmp_path, *online, "run_dir=whole")
    process = start(tmp_path, *online, "run_dir=run")
    code, _ = interrupt(process, tmp_path / "run", signal.SIGKILL)  # saved at 0, 25 and 30
    assert code == -signal.SIGKILL
    reached = load_state(tmp_path / "run" / "checkpoints" / "last.safetensors")["step"]
    assert 30 <= reached < 150
    _, err = train(tmp_path, "resume=run")
    assert f"going on from step {reached} of 150" in err
    assert "begins anew" not in err  # the episode in progress was repeated
    assert_same_results(tmp_path / "run", tmp_path / "whole")
    assert results_of(tmp_path / "run")["online"] == results_of(tmp_path / "whole")["online"]


# Sweeps and other data ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_makes_a_run_of_each(tmp_path: Path) -> None:
    train(tmp_path, "-m", *TINY, "steps=20", "agent=bc", "seed=0,1", "output_dir=out")
    runs = sorted(p.parent for p in (tmp_path / "out").rglob("results.json"))
    assert [results_of(run)["seed"] for run in runs] == [0, 1]
    weights = [safetensors.torch.load_file(run / "policy.safetensors") for run in runs]
    assert any(not torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    alone = tmp_path / "alone"
    train(tmp_path, *TINY, "steps=20", "agent=bc", "seed=1", f"run_dir={alone}")
    assert_weights_equal(alone, runs[1])  # the run before it in the process changes nothing


def assert_weights_equal(a: Path, b: Path) -> None:
    left, right = (safetensors.torch.load_file(run / "policy.safetensors") for run in (a, b))
    assert all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.slow
@pytest.mark.skipif(not MINARI.is_dir(), reason="no Minari data in ../shared/data/minari")
def test_real_human_data_from_minari(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    arguments = ["env=door-human", "agent=bc", "steps=20", "run_dir=run", "threads=1"]
    small = ["eval.episodes=1", "eval.final_episodes=1", "agent.policy.hidden=[8]"]
    places = {"MINARI_DATASETS_PATH": str(MINARI), "D4RL_DATASET_DIR": str(tmp_path / "none")}
    train(tmp_path, *arguments, *small, "progress=false", **places)
    results = results_of(tmp_path / "run")
    assert results["dataset"]["dataset_id"] == "D4RL/door/human-v2"
    assert results["dataset"]["source"] == "minari"
    assert results["environment"]["id"] == "AdroitHandDoor-v1"
    assert results["spaces"]["obs_dim"] == 39
    assert len(results["spaces"]["action_low"]) == 28
    assert results["last"]["normalized_score"] is not None
