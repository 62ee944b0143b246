"""Jobs of a sweep: what they are called, what they leave, how they go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from cmpolicy import train, training_run
from cmpolicy.cli.sweep import Job, read_jobs, run_settings, score_of, sweep_arguments, table_of
from cmpolicy.comparison.runs import find_runs
from cmpolicy.training.checkpoint import load_state
from cmpolicy.training.distributed import Ranks

TOY = (
    *("--config-name", "toy", "toy=two_gmm", "device=cpu", "steps=4", "eval.every=2"),
    *("eval.samples=50", "batch_size=4", "hidden=[4]", "checkpoint_every=2", "log_every=2"),
)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """job(*overrides, fixed=[]): as if this process performed job 3 of a sweep."""

    def perform(*overrides: str, fixed: tuple[str, ...] = ()) -> None:
        hydra = {
            "mode": "MULTIRUN",
            "overrides": {"task": list(overrides)},
            "job": {"num": 3, "config": {"override_dirname": {"exclude_keys": list(fixed)}}},
            "runtime": {"cwd": str(tmp_path)},
            "sweep": {"dir": "sweeps/now", "subdir": "3"},
        }
        node = OmegaConf.create(hydra)
        node.mode = training_mode()
        fake = SimpleNamespace(initialized=lambda: True, get=lambda: node)
        monkeypatch.setattr("cmpolicy.cli.sweep.HydraConfig", fake)

    def training_mode() -> Any:
        from hydra.types import RunMode

        return RunMode.MULTIRUN

    return perform


def test_only_a_sweep_tells_hydra_more() -> None:
    assert sweep_arguments(["env=hopper-medium", "seed=1"]) == []
    callback, fixed = sweep_arguments(
        ["-m", "--config-name", "toy", "toy=gmm", "seed=1,2", "hydra/launcher=joblib", "+x.y=[1,2]"]
    )
    assert callback == "+hydra.callbacks.cmpolicy._target_=cmpolicy.cli.sweep.Sweep"
    assert fixed == "hydra.job.config.override_dirname.exclude_keys=[toy,x.y]"


def test_names_tell_what_varies(job: Any) -> None:
    assert run_settings() == ""
    job("env=hopper-medium", "agent=bc", "steps=5", fixed=("env", "agent", "steps"))
    assert run_settings() == ""
    job("agent=bc", "seed=2", "agent.radius=0.05", "+env.kwargs={a: b/c}", "steps=500")
    assert run_settings() == "-radius=0.05-kwargs=_a_b_c_-steps=500"
    job("loss.learning_rate=0.00046568046379195655")
    assert run_settings() == "-learning_rate=0.0004657"
    job(*(f"key{i}=value" for i in range(40)))
    assert len(run_settings()) == 80


def test_a_job_finds_what_an_earlier_attempt_left(job: Any, tmp_path: Path) -> None:
    job("seed=1", "steps=5", fixed=("steps",))
    first = Job.current()
    assert first is not None
    assert (str(first), first.unfinished_run) == ("job 3: seed=1", None)
    run = tmp_path / "run"
    first.write(run=str(run))
    again = Job.current()
    assert again is not None
    assert again.unfinished_run is None  # killed before the run had its configuration
    run.mkdir()
    (run / "config.yaml").write_text("")
    assert again.unfinished_run == str(run)
    for code, goes_on in ((0, False), (1, False), (2, False), (143, True)):
        first.write(code=code)
        later = Job.current()
        assert later is not None
        assert (later.unfinished_run is not None) == goes_on
    assert [j.number for j in read_jobs(tmp_path / "sweeps" / "now")] == [3]
    assert find_runs([tmp_path / "sweeps"]) == [run]
    job("seed=2", "steps=5", fixed=("steps",))
    with pytest.raises(Exception, match=r"holds a job of another sweep \(seed=1 steps=5\)"):
        Job.current()


def test_the_table_of_a_sweep() -> None:
    jobs = [
        Job(Path(), 0, ["seed=0"], ["seed=0"], "runs/a", 12.345, 0),
        Job(Path(), 10, ["seed=1"], ["seed=1"], None, None, 2),
    ]
    assert table_of(jobs).splitlines() == [
        "job  settings  score   run",
        "0    seed=0    12.35   runs/a",
        "10   seed=1    failed",
    ]
    assert [score_of(v) for v in (1.5, None, float("nan"), "x")] == [1.5, None, None, None]


def test_fifty_runs_started_at_one_moment_have_fifty_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: Any
) -> None:
    """Ten at a time, with a clock that stands still."""
    now = training_run.datetime.datetime(2026, 1, 2, 3, 4, 5)
    frozen = SimpleNamespace(datetime=SimpleNamespace(now=lambda: now))
    monkeypatch.setattr(training_run, "datetime", frozen)
    config = compose("toy=two_gmm", f"output_dir={tmp_path}", config="toy")
    task: Any = SimpleNamespace(run_name=lambda: "two_gmm/sct")

    def start(i: int) -> Path:
        with ExitStack() as locks:
            automatic = training_run.run_path(config, task)
            return training_run.new_directory(config, automatic, Ranks(), locks).path

    with ThreadPoolExecutor(10) as pool:
        paths = set(pool.map(start, range(50)))
    assert len(paths) == 50
    assert all((path / "config.yaml").is_file() for path in paths)
    assert {path.parent for path in paths} == {tmp_path / "two_gmm"}
    assert sorted(path.name for path in paths)[0] == "sct-seed0-20260102-030405"


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_killed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Any,
    killed_after: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first job has ended, the second was killed, the third has not begun."""
    monkeypatch.chdir(tmp_path)
    sweep = ("-m", *TOY, "seed=0,1,2", "hydra.sweep.dir=sweep")
    scores: list[float] = []
    trained = training_run.train

    def kill_second(config: Any, overrides: list[str]) -> float:
        scores.append(config.seed)
        if config.seed == 1 and config.resume is None:
            with killed_after(2):
                trained(config, overrides)
            raise SystemExit(137)
        return trained(config, overrides)

    monkeypatch.setattr(training_run, "train", kill_second)
    code, err = command(train, *sweep)
    assert code == 137
    assert "goes on with what has not ended" in err.splitlines()[-1]
    jobs = read_jobs(tmp_path / "sweep")
    assert [(job.number, job.code) for job in jobs] == [(0, 0), (1, None)]
    killed = jobs[1].run
    assert killed is not None

    code, err = command(train, *sweep)
    assert code == 0, err
    assert scores == [0, 1, 1, 2]
    assert "job 0: seed=0   has ended before" in err
    assert "going on from step 2 of 4" in err
    jobs = read_jobs(tmp_path / "sweep")
    assert [job.code for job in jobs] == [0, 0, 0]
    assert jobs[1].run == killed
    assert load_state(Path(killed) / "checkpoints" / "last.safetensors")["step"] == 4
    for job in jobs:
        results = json.loads((Path(str(job.run)) / "results.json").read_text())
        assert job.score == -results["last"]["distances"]["1 step"]["w1"]
        assert Path(str(job.run)).name.startswith(f"sct-seed{job.number}-")
