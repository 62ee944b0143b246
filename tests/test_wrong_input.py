"""A wrong input ends in one line, exit code 2, no traceback, and leaves nothing behind."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from cmpolicy import evaluate, train

ROOT = Path(__file__).parents[1]
SAMPLE = ("env=hopper-medium", "dataset.source=sample")
TINY = (
    *("threads=1", "progress=false", "batch_size=8", "agent.policy.hidden=[8]", "steps=6"),
    *("eval.episodes=1", "eval.final_episodes=1"),
)
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def refusal(code: int, err: str) -> str:
    """The one line."""
    assert code == 2, err
    assert "Traceback" not in err
    lines = err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert sum(line.startswith("error:") for line in lines) == 1
    return lines[-1]


def arrays() -> dict[str, Any]:
    """A hundred random steps with Hopper's shapes."""
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(100, 11)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(100, 3)).astype(np.float32),
        "rewards": rng.normal(size=100).astype(np.float32),
        "terminals": np.arange(100) % 20 == 19,
        "timeouts": np.zeros(100, bool),
    }


def write(path: Path, changed: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for key, values in changed.items():
            if values is not None:
                file[key] = values
    return path


# The command line -----------------------------------------------------------------------------

COMMAND_LINES = [
    (["env=hoper-medium"], ["no env=hoper-medium (did you mean hopper-medium?)", "antmaze-umaze"]),
    (["agent=sac"], ["agent 'sac' is not installed", "ac", "bc"]),
    (["stps=5"], ["there is no key stps (did you mean steps?)", "batch_size"]),
    (["eval.evry=5"], ["there is no key eval.evry (did you mean every?)", "episodes"]),
    (["agent.gamma=0.9"], ["gamma", "discount"]),
    (["agent.n_step=5"], ["agent ac learns from one-step targets, got n_step=5"]),
    (["agent.policy.depth=3"], ["depth", "hidden"]),
    (["env.d4rl=x"], ["d4rl", "d4rl_id"]),
    (["steps=many"], ["steps", "many", "Integer"]),
    (["steps=0"], ["steps must be at least 1, got 0"]),
    (["batch_size=-4"], ["batch_size must be at least 1, got -4"]),
    (["eval.every=0"], ["every must be at least 1, got 0"]),
    (["agent.radius=-1"], ["radius", "-1"]),
    (["+learning_rate=1"], ["no key learning_rate (did you mean agent.learning_rate?)"]),
    (["+env.max_episode_step=5"], ["env.max_episode_step (did you mean env.max_episode_steps?)"]),
    (["+agent.policy.loss_option.s1=9"], ["(did you mean agent.policy.loss_options?)"]),
    (["+zebra=1"], ["there is no key zebra"]),
    (["agent.policy.bound=sigmoid"], ["unknown bound 'sigmoid'", "tanh"]),
    (["steps"], ["steps"]),
    (["threads=0"], ["threads must be at least 1"]),
    (["seed=-2"], ["seed must be between 0 and"]),
    (["agent.critic_activation=none"], ["none"]),
    (["agent.policy.hidden=[8"], ["[8"]),
    ([], ["no task: give env=NAME"]),
    (["dataset.source=cloud"], ["cloud", "minari", "sample"]),
    (["device=tpu9"], ["tpu9", "cpu"]),
    (["device=mps"], ["mps", "cpu"]),
    (["resume=nowhere"], ["nowhere is not a run"]),
    (["env.reward=fair"], ["fair", "normalize"]),
    (["env.id=Hoper-v5"], ["Hoper-v5"]),
    (["env.id=CartPole-v1"], ["CartPole-v1", "expected a vector"]),
]


@pytest.mark.parametrize(("arguments", "said"), COMMAND_LINES, ids=lambda x: ",".join(x)[:30])
def test_a_wrong_command_line(
    place: Path, command: Command, arguments: list[str], said: list[str]
) -> None:
    task = () if not arguments or arguments[0].startswith("env=ho") else SAMPLE
    line = refusal(*command(train, *task, *arguments))
    assert all(word in line for word in said), line
    assert list(place.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there(place: Path, command: Command, device: str) -> None:
    line = refusal(*command(train, *SAMPLE, f"device={device}"))
    assert f"device={device} asked for" in line
    assert "use device=cpu" in line
    assert list(place.iterdir()) == []


# Data -----------------------------------------------------------------------------------------


def broken(key: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        data = arrays()
        data[key] = change(data[key])
        write(path, data)

    return make


def with_entry(value: float, row: int) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[row, ...] = value
        return values

    return change


def truncated(path: Path) -> None:
    write(path, arrays())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DATA = {
    "missing": (lambda path: None, "no file at"),
    "not HDF5": (lambda path: path.write_text("<html>"), "is not an HDF5 file"),
    "truncated": (truncated, "cut short or damaged"),
    "no rewards": (broken("rewards", lambda x: None), "has no rewards"),
    "lengths": (broken("rewards", lambda x: x[:50]), "differ in length"),
    "three axes": (broken("observations", lambda x: x[:, :, None]), "has shape (100, 11, 1)"),
    "text": (broken("rewards", lambda x: [b"one"] * 100), "expected numbers"),
    "NaN": (broken("observations", with_entry(np.nan, 7)), "observations[7] holds NaN or inf"),
    "inf": (broken("rewards", with_entry(np.inf, 9)), "rewards[9] holds NaN or inf"),
    "bounds": (broken("actions", with_entry(1.5, 4)), "action 4 of the dataset is [1.5, 1.5, 1.5]"),
    "observations": (broken("observations", lambda x: x[:, :5]), "observations have 5 entries"),
    "actions": (broken("actions", lambda x: x[:, :2]), "actions have 2 entries"),
}


@pytest.mark.parametrize("kind", DATA)
def test_wrong_data(place: Path, tmp_path: Path, command: Command, kind: str) -> None:
    path = tmp_path / "data.hdf5"
    make, said = DATA[kind]
    make(path)  # type: ignore[no-untyped-call]
    line = refusal(*command(train, f"dataset.path={path}", "env.id=Hopper-v5"))
    assert said in line
    assert list(place.iterdir()) == []


# Places and runs ------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["run_dir=file/run", "run_dir=file", "output_dir=file/runs"])
def test_an_unwritable_place(place: Path, command: Command, key: str) -> None:
    (place / "file").write_text("here")  # a file is in the way, even for root
    line = refusal(*command(train, *SAMPLE, key))
    assert "cannot write to file" in line
    assert [p.name for p in place.iterdir()] == ["file"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, made by a real process."""
    place = tmp_path_factory.mktemp("finished")
    done = outside("train", place, *SAMPLE, *TINY, "agent=bc", "run_dir=run")
    assert done.returncode == 0, done.stderr
    return place / "run"


@pytest.fixture
def run(finished: Path, place: Path) -> Path:
    return Path(shutil.copytree(finished, place / "run"))


def test_a_place_that_holds_a_run_already(run: Path, command: Command) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    line = refusal(*command(train, *SAMPLE, *TINY, "run_dir=run"))
    assert "already holds a run; continue it with resume=run" in line
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("proof"),)


def damage(path: Path, kind: str) -> None:
    whole = path.read_bytes()
    content = {
        "truncated": whole[: len(whole) // 2],
        "overwritten": whole[:20] + b"\xff" * 200 + whole[220:],
        "empty": b"",
        "pickle": pickle.dumps(Payload()),
        "policy": (path.parents[1] / "policy.safetensors").read_bytes(),
    }
    path.write_bytes(content[kind])


@pytest.mark.parametrize("kind", ["truncated", "overwritten", "empty", "pickle", "policy"])
@pytest.mark.parametrize(("module", "key"), [(train, "resume"), (evaluate, "run")])
def test_a_damaged_or_foreign_checkpoint(
    run: Path, place: Path, command: Command, kind: str, module: Any, key: str
) -> None:
    damage(run / "checkpoints" / "last.safetensors", kind)
    (run / "checkpoints" / "previous.safetensors").unlink()
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    line = refusal(*command(module, f"{key}=run"))
    assert "last.safetensors" in line
    assert "checkpoint" in line
    assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(("module", "key"), [(train, "resume"), (evaluate, "run")])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    run: Path, command: Command, module: Any, key: str
) -> None:
    damage(run / "checkpoints" / "last.safetensors", "overwritten")
    code, err = command(module, f"{key}=run")
    assert code == 0, err
    assert "WARNING: run/checkpoints/last.safetensors is damaged" in err
    assert "using the checkpoint before it, run/checkpoints/previous.safetensors" in err


def test_resuming_as_another_run(run: Path, command: Command) -> None:
    line = refusal(*command(train, "resume=run", "seed=4"))
    assert "seed cannot change in a run that has begun" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run=nowhere"], "nowhere is not a run"),
        ([], "run"),
        (["run=run", "episodes=0"], "episodes must be at least 1"),
        (["run=run", "checkpoint=worst"], "must be last or best, got 'worst'"),
        (["run=run", "colour=red"], "there is no key colour"),
        (["run=run", "best_of=2"], "bc has no critic"),
        (["run=run", "steps=0"], ""),
        (["run=run", "device=cuda:9"], "cuda:9"),
    ],
)
def test_a_wrong_evaluation(run: Path, command: Command, arguments: list[str], said: str) -> None:
    assert said in refusal(*command(evaluate, *arguments))
    assert not (run / "evaluations.jsonl").exists()


# From outside ---------------------------------------------------------------------------------


def outside(
    module: str, place: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"cmpolicy.{module}", *arguments],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_a_real_process_says_one_line_and_shows_a_traceback_when_asked_to(place: Path) -> None:
    for module, wrong in (("train", "env=hoper-medium"), ("evaluate", "run=nowhere")):
        done = outside(module, place, wrong)
        refusal(done.returncode, done.stderr)
        assert (len(done.stderr.splitlines()), done.stdout) == (1, "")
        assert list(place.iterdir()) == []
    done = outside("train", place, "steps=0", CMPOLICY_TRACEBACK="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: steps must be at least 1, got 0"


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failing_job_and_lists_it(place: Path) -> None:
    data = "dataset.path=nowhere.hdf5,null"
    done = outside("train", place, "-m", *SAMPLE, *TINY, "steps=6,0", data, "agent=bc")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: 3 of the sweep's jobs failed: ")
    assert last.count("steps=0") == 2
    assert last.count("dataset.path=nowhere.hdf5") == 2
    [run] = (path.parent for path in place.rglob("results.json"))
    assert '"finished": true' in (run / "results.json").read_text()


# Signals at the start --------------------------------------------------------------------------

SIGNALLED = """
import os, signal, sys, time
if __name__ == "__main__":  # a process in the background ignores SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)
from cmpolicy.cli.command import run
os.kill(os.getpid(), signal.{signum}) if __name__ == "slow" else run(print, "rl", ["slow"])
time.sleep(60)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_imports_ends_with_one_line(place: Path, signum: signal.Signals) -> None:
    for name in ("slow.py", "start.py"):
        (place / name).write_text(SIGNALLED.replace("{signum}", signum.name))
    done = subprocess.run(
        [sys.executable, "start.py"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (128 + signum, f"stopped by {signum.name}\n")
