"""Runs that are killed, or whose disk is full, at random moments, and what they resume to.

Each run is a process that is forked from one that has imported everything, which saves the seconds
of torch's import; it is killed by SIGKILL like any other.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from cmpolicy.training.run_directory import RunDirectory

AGENT = (
    *("env=hopper-medium", "dataset.source=sample", "agent.policy.hidden=[8]", "batch_size=8"),
    *("eval.episodes=1", "eval.final_episodes=1"),
)
SHORT = ("threads=1", "progress=false", "steps=40", "eval.every=20", "log_every=5")
OFTEN = ("checkpoint_every=7",)
IMAGES = (
    *("--config-name", "image", "data=digits", "image_loss=edm", "network.channels=16"),
    *("network.multipliers=[1]", "batch_size=8", "eval.samples=4", "eval.final_samples=4"),
)
ONLINE = ("agent=ac", "steps=20", "online.steps=20")
RUNS: dict[str, tuple[str, ...]] = {
    "bc": (*AGENT, *SHORT, *OFTEN, "agent=bc"),
    "ac": (*AGENT, *SHORT, *OFTEN, "agent=ac", "agent.critic_hidden=[8]"),
    "online": (*AGENT, *SHORT, *OFTEN, "agent.critic_hidden=[8]", *ONLINE),
    "seeds": (*AGENT, *SHORT, *OFTEN, "agent=ac", "agent.critic_hidden=[8]", "seeds=[0,3]"),
    "toy": ("--config-name", "toy", *SHORT, *OFTEN, "hidden=[8]", "batch_size=64"),
    "images": (*IMAGES, *SHORT, *OFTEN),
}


IMPORTED_WHEN_NEEDED = (
    *("cmpolicy.training_run", "cmpolicy.toys.task", "cmpolicy.images.evaluation"),
    *("cmpolicy.images.task", "matplotlib.backends.backend_agg", "sklearn.datasets"),
    "torch.utils.tensorboard",
)


class Ended(NamedTuple):
    """How a process ended: its exit code, negative for a signal; what it said; its seconds."""

    code: int
    said: str
    seconds: float


def import_everything() -> None:
    """Import what runs import when they need it, before they are forked."""
    import gymnasium

    for name in IMPORTED_WHEN_NEEDED:
        importlib.import_module(name)
    torch.set_num_threads(1)
    gymnasium.make("Hopper-v5").close()
    gymnasium.make("Hopper-v4").close()


def run(
    arguments: tuple[str, ...], kill_after: float | None = None, largest_file: int | None = None
) -> Ended:
    """Train in a process of its own.

    Args:
        kill_after: seconds.
        largest_file: bytes beyond which writing fails, as on a full disk.
    """
    begin = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os._exit(train_here(arguments, writing, largest_file))
    os.close(writing)
    try:
        code = wait(pid, kill_after)
        with os.fdopen(reading, encoding="utf-8", errors="replace") as pipe:
            said = pipe.read()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return Ended(code, said, time.monotonic() - begin)


def train_here(arguments: tuple[str, ...], output: int, largest_file: int | None) -> int:
    """Train in this process, which ends afterwards; return its exit code."""
    from cmpolicy.train import main

    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    sys.argv = ["train.py", *arguments]
    code = 0
    try:
        main()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def wait(pid: int, kill_after: float | None) -> int:
    """Wait for a process, or kill it; what it says is little, and fits into the pipe."""
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def command(kind: str, path: Path) -> tuple[str, ...]:
    """The command line that begins a run, or goes on with it if it has begun."""
    if (path / "config.yaml").exists():
        return (f"resume={path}",)
    return (*RUNS[kind], f"run_dir={path}")


def uninterrupted(kind: str, folder: Path) -> float:
    """Make the run that others are held against, if it is not there; return its seconds."""
    path, note = folder / f"{kind}-whole", folder / f"{kind}-seconds"
    if not note.exists():
        shutil.rmtree(path, ignore_errors=True)
        ended = run(command(kind, path))
        assert ended.code == 0, ended.said
        note.write_text(str(ended.seconds))
    return float(note.read_text())


def killed_run(kind: str, folder: Path, seed: int, most: int = 5) -> dict[str, Any]:
    """Kill a run at random moments, up to `most` times, let it end, compare."""
    rng, seconds = random.Random(f"{kind} {seed}"), uninterrupted(kind, folder)
    path, kills = folder / f"{kind}-{seed}", 0
    shutil.rmtree(path, ignore_errors=True)
    for _ in range(most):
        ended = run(command(kind, path), kill_after=rng.uniform(0, seconds))
        kills += ended.code == -signal.SIGKILL
        if "Traceback" in ended.said:
            return {"count": kills, "wrong": f"traceback: {ended.said[-300:]}"}
    return {"count": kills, "wrong": finish(kind, path, folder)}


def full_disk(kind: str, folder: Path, seed: int) -> dict[str, Any]:
    """Let a run meet a full disk once, end by itself, and go on where there is room again."""
    rng, seconds = random.Random(f"disk {kind} {seed}"), uninterrupted(kind, folder)
    path = folder / f"{kind}-disk-{seed}"
    shutil.rmtree(path, ignore_errors=True)
    sizes = [file.stat().st_size for file in (folder / f"{kind}-whole").rglob("*.*")]
    run(command(kind, path), kill_after=rng.uniform(0, seconds))
    ended = run(command(kind, path), largest_file=int(rng.uniform(1, max(sizes))))
    errors = [line for line in ended.said.splitlines() if line.startswith("error:")]
    if ended.code not in (0, 1, 2) or "Traceback" in ended.said or len(errors) != bool(ended.code):
        return {"count": 1, "wrong": f"exit {ended.code}: {ended.said[-300:]}"}
    return {"count": 1, "failed": ended.code, "wrong": finish(kind, path, folder)}


def finish(kind: str, path: Path, folder: Path) -> str:
    """Let a run end; say how it differs from the uninterrupted one."""
    ended = run(command(kind, path))
    if ended.code != 0:
        return f"exit {ended.code}: {ended.said[-300:]}"
    wrong = "; ".join(differences(path, folder / f"{kind}-whole"))
    shutil.rmtree(path)
    return wrong[:300]


def differences(run_path: Path, whole: Path) -> Iterator[str]:
    """How the files of one run differ from those of another that should have the same bits."""
    ours, theirs = files_of(run_path), files_of(whole)
    if ours != theirs:
        yield f"files {sorted(map(str, ours ^ theirs))}"
    for file in sorted(ours & theirs):
        a, b = run_path / file, whole / file
        if file.name in ("last.safetensors", "best.safetensors"):
            runs = (RunDirectory(place.parents[1]) for place in (a, b))
            left, right = (leaves(each.load_checkpoint(file.stem)) for each in runs)
        elif file.suffix == ".safetensors" and file.stem != "previous":
            left, right = load_file(a), load_file(b)
        elif file.name == "metrics.csv":
            rows = [RunDirectory(place.parent).read_metrics() for place in (a, b)]
            left, right = (dict(enumerate(map(untimed, table))) for table in rows)
        elif file.name == "results.json":
            left, right = (RunDirectory(place.parent).read_results() for place in (a, b))
            left, right = (
                {k: r.get(k) for k in ("last", "best", "finished")} for r in (left, right)
            )
        else:
            continue
        wrong = [key for key in left.keys() | right.keys() if not same(left, right, key)]
        if wrong:
            yield f"{file}: {sorted(map(str, wrong))[:3]}"


def files_of(path: Path) -> set[Path]:
    """All files but event files, whose names hold the time."""
    files = {file.relative_to(path) for file in path.rglob("*") if file.is_file()}
    return {file for file in files if "tensorboard" not in file.parts}


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """The tensors and values of a state by their paths, but what a clock measured."""
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return {k: v for key, child in items for k, v in leaves(child, f"{path}/{key}").items()}
    return {} if path.endswith("/seconds") else {path: node}


def untimed(row: dict[str, str]) -> dict[str, str]:
    """A row of metrics without what a clock measured."""
    return {key: value for key, value in row.items() if not key.startswith("time/")}


def same(left: dict[Any, Any], right: dict[Any, Any], key: Any) -> bool:
    """Whether two states have the same bits at a key."""
    a, b = left.get(key), right.get(key)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and a == b
