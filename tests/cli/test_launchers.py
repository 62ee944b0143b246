"""Sweeps through joblib, submitit and Ray, whose workers are killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmpolicy.cli.sweep import Job, read_jobs
from cmpolicy.training.checkpoint import load_state

pytestmark = [pytest.mark.launchers, pytest.mark.slow]
STEPS = 200
JOBS = (
    *("-m", "--config-name", "toy", "toy=two_gmm", "device=cpu", f"steps={STEPS}"),
    *("eval.every=100", "eval.samples=50", "batch_size=8", "hidden=[4]", "loss.teacher_steps=0"),
    *("checkpoint_every=10", "log_every=100", "logger=[csv]", "hydra.sweep.dir=sweep"),
)
LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit": ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=20"),
}


def needs(*packages: str) -> None:
    for name in packages:
        pytest.importorskip(name, reason="see the extras `launchers` and `ray`")


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cmpolicy.train", *JOBS, *arguments],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(
    process: subprocess.Popen[str], place: Path, ready: Callable[[list[Job]], bool]
) -> list[Job]:
    """The jobs of a sweep that runs, as soon as they are `ready`."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        jobs = read_jobs(place / "sweep")
        if ready(jobs):
            return jobs
        time.sleep(0.05)
    raise AssertionError("the sweep has not got so far")


def step_of(job: Job) -> int:
    """Updates in the last checkpoint of a job."""
    path = Path(str(job.run)) / "checkpoints" / "last.safetensors"
    return int(load_state(path)["step"]) if path.exists() else 0


def has_saved(job: Job) -> bool:
    return job.run is not None and job.code is None and step_of(job) > 0


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_whose_worker_was_killed_goes_on(launcher: str, tmp_path: Path) -> None:
    needs(f"hydra_plugins.hydra_{launcher}_launcher")
    arguments = ("seed=0,1", *LAUNCHERS[launcher])
    process = start(tmp_path, *arguments)
    jobs = wait_for(process, tmp_path, lambda jobs: any(map(has_saved, jobs)))
    killed = next(filter(has_saved, jobs))
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    out, _ = process.communicate(timeout=600)
    assert process.returncode != 0, out
    assert "goes on with what has not ended" in out
    assert "Traceback" not in out
    assert 0 < step_of(killed) < STEPS

    process = start(tmp_path, *arguments)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    again = read_jobs(tmp_path / "sweep")
    assert [job.code for job in again] == [0, 0]
    assert all(step_of(job) == STEPS for job in again)
    assert again[killed.number].run == killed.run
    logs = out + "".join(p.read_text() for p in tmp_path.rglob("*_log.err"))
    assert "going on from step" in logs


def patiently(function: Callable[..., Any]) -> Callable[..., Any]:
    """What Ray asks for 30 s after it started a node; on a busy machine nodes take longer."""

    def asked_again(*arguments: Any) -> Any:
        deadline = time.monotonic() + 300
        while True:
            try:
                return function(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    return asked_again


def test_ray_moves_the_jobs_of_a_node_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three nodes, eight jobs, one node dies in the middle: all eight jobs end."""
    needs("hydra_plugins.hydra_ray_launcher", "ray")
    from ray._private import services
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(services, "get_node", patiently(services.get_node))
    size: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster()
    try:
        cluster.add_node(**size, include_dashboard=False)  # the head
        doomed = [cluster.add_node(**size) for _ in range(2)][1]
        process = start(
            tmp_path,
            "seed=0,1,2,3,4,5,6,7",
            "hydra/launcher=ray",
            f"hydra.launcher.ray.init.address={cluster.address}",
            "+hydra.launcher.ray.init.object_store_memory=null",
            "+hydra.launcher.ray.remote.max_retries=-1",
        )
        jobs = wait_for(process, tmp_path, lambda jobs: sum(map(has_saved, jobs)) == 3)
        pids = {job.number: job.pid for job in jobs}
        cluster.remove_node(doomed, allow_graceful=False)
        out, _ = process.communicate(timeout=1200)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, out
    ended = read_jobs(tmp_path / "sweep")
    assert [(job.number, job.code) for job in ended] == [(number, 0) for number in range(8)]
    assert all(step_of(job) == STEPS for job in ended)
    moved = [job for job in ended if job.number in pids and pids[job.number] != job.pid]
    assert moved, "no job ran on the node that died"
    assert out.count("going on from step") == len(moved)
