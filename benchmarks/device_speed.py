"""Updates a second of `ac` on this device, beside its matrix products alone, and what bounds it."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from csv_rows import append_row, read_rows
from device_checks import learner_of, where
from peers.environment import d3rlpy_python
from peers.turns import child
from speed import Turn, Work, hopper_like, products_of, repeated, timed
from speed_peers import BATCH, COLUMNS, D3RLPY, PEERS
from torch.profiler import ProfilerActivity, profile

from cmpolicy.acceleration.mode import accelerated
from cmpolicy.acceleration.precision import resolve_precision, use_precision
from cmpolicy.acceleration.updates import Updates
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.rl.config import RLConfig
from cmpolicy.training.machine import machine_name

SHARE = 0.25  # of the seconds; what is left of them is for `sets`
SEEDS = 5
ROUNDS = 5
STACKED = f"ac, {SEEDS} stacked seeds"
PRODUCT_NAMES = ("gemm", "gemv", "nvjet", "cutlass", "::mm", "::addmm", "::bmm", "::baddbmm")
Left = Callable[[], float]


def run(options: dict[str, Any], left: Left) -> None:
    """Write a row a case into device_speed.csv, until a quarter of the seconds is over."""
    device, path = torch.device(options["device"]), table(options)
    quick = bool(options["quick"])
    end, done = left() - SHARE * options["seconds"], {(r["case"], r["machine"]) for r in rows(path)}
    data = hopper_like(1_000 if quick else 1_000_000).to(device)
    precision = resolve_precision("auto", device, RLConfig.AUTO_PRECISION)
    use_precision(precision, device)
    graphs = device.type == "cuda"
    calls = 200 if graphs else 2
    for case, make in cases(data, device, quick, precision, graphs).items():
        if (case, machine_name(device)) in done or left() < end:
            continue
        before = left()
        work, facts = make()
        row = {"case": case, **measured(timed(work, device), calls), **facts}
        row |= {"seconds": round(before - left(), 1), **where(device)}
        print(row, flush=True)
        append_row(path, row)
    if left() > end:
        peers(options, data, device, left, calls)


def table(options: dict[str, Any]) -> Path:
    """Where the rows are."""
    return Path(options["out"]) / "device_speed.csv"


def rows(path: Path) -> list[dict[str, str]]:
    return read_rows(path)


def stacked_speed(options: dict[str, Any]) -> float | None:
    """Updates a second of five stacked seeds on this machine, the best of its rows."""
    machine = machine_name(torch.device(options["device"]))
    found = [
        float(r["updates_per_second"])
        for r in rows(table(options))
        if r["machine"] == machine and r["case"].startswith(STACKED)
    ]
    return max(found, default=None)


Case = Callable[[], tuple[Work, dict[str, Any]]]


def cases(
    data: TransitionDataset, device: torch.device, quick: bool, precision: str, graphs: bool
) -> dict[str, Case]:
    """By name what makes a case: its work, and facts for the row."""
    modes = ("graph", "compiled_graph") if graphs else ("off",)
    found: dict[str, Case] = {}
    for mode in modes:
        for seeds in (1, SEEDS):
            who = "ac, one seed" if seeds == 1 else STACKED
            found[f"{who}, {precision}, {mode}"] = lambda s=seeds, m=mode: updates(
                data, device, quick, s, m, precision
            )
            if mode == modes[0]:
                found[f"products of {who}, bf16"] = lambda s=seeds: products(data, device, quick, s)
    return found


def updates(
    data: TransitionDataset,
    device: torch.device,
    quick: bool,
    seeds: int,
    mode: str,
    precision: str,
) -> tuple[Work, dict[str, Any]]:
    """Updates of `ac`, and what a profile of them says."""
    learner, dataset = learner_of(data, device, quick, seeds)
    work = repeated(accelerated(learner, dataset, BATCH, mode, precision))
    work(15 if device.type == "cuda" else 1)  # captured from now on
    return work, profiled(work, device)


def products(
    data: TransitionDataset, device: torch.device, quick: bool, seeds: int
) -> tuple[Work, dict[str, Any]]:
    """The matrix products of an update in bfloat16, as one graph on a GPU."""
    learner, dataset = learner_of(data, device, quick, seeds)
    plain = Updates(learner, dataset, BATCH, bfloat16=True)
    plain(1)  # the optimisers' states are there from now on
    work, flops = products_of(plain)
    return captured(work, device), {"gflop": round(flops / 1e9, 6)}


def captured(work: Work, device: torch.device) -> Work:
    """The same work as the replay of a graph, so that launches do not bound it."""
    if device.type != "cuda":
        return work
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work(3)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work(1)

    def replay(times: int) -> None:
        for _ in range(times):
            graph.replay()

    return replay


def measured(turn: Turn, calls: int) -> dict[str, float]:
    """Median milliseconds of an update over rounds, and updates a second."""
    turn(calls)
    seconds = float(np.median([turn(calls) / calls for _ in range(ROUNDS)]))
    return {"ms": round(1e3 * seconds, 4), "updates_per_second": round(1 / seconds, 1)}


def profiled(work: Work, device: torch.device, count: int = 10) -> dict[str, float]:
    """Kernels (on a CPU operations) an update, and the shares of products and of idleness.

    Many short kernels with idle time between them are bound by launches; busy without products by
    memory; busy with products by products.
    """
    gpu = device.type == "cuda"
    activity = ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU
    count = count if gpu else 1
    turn = timed(work, device)
    wall = turn(count)
    with profile(activities=[activity]) as found:
        turn(count)
    time_of = "self_device_time_total" if gpu else "self_cpu_time_total"
    kernels = [(e.key, e.count, getattr(e, time_of) / 1e6) for e in found.key_averages()]
    kernels = [k for k in kernels if k[2] > 0]
    busy = sum(seconds for _, _, seconds in kernels)
    product = sum(s for name, _, s in kernels if any(p in name for p in PRODUCT_NAMES))
    return {
        "kernels": round(sum(n for _, n, _ in kernels) / count),
        "busy": round(min(1.0, busy / wall), 3) if wall else 0.0,
        "products_of_busy": round(product / busy, 3) if busy else 0.0,
    }


def peers(
    options: dict[str, Any],
    data: TransitionDataset,
    device: torch.device,
    left: Left,
    calls: int,
) -> None:
    """d3rlpy's algorithms, each in a process of its own."""
    path, done = table(options), {(r["case"], r["machine"]) for r in rows(table(options))}
    python = python_with_d3rlpy(options["venv"])
    wanted = [name for name in D3RLPY if (name, machine_name(device)) not in done]
    if python is None or not wanted:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        np.savez(file, **{name: getattr(data, name).cpu().numpy() for name in COLUMNS})
        for name in wanted:
            before = left()
            script = [python, str(PEERS / "d3rlpy_turns.py"), D3RLPY[name]]
            with child(name, [*script, str(file), str(BATCH), str(device)]) as peer:
                peer.ready()
                row = {"case": name, **measured(peer, calls)}
            append_row(path, {**row, "seconds": round(before - left(), 1), **where(device)})


def python_with_d3rlpy(venv: str | None) -> str | None:
    """An interpreter that has d3rlpy: this one, or that of an environment that is there."""
    if importlib.util.find_spec("d3rlpy") is not None:
        return sys.executable
    if venv is None or not (Path(venv) / "installed").exists():
        return None
    return str(d3rlpy_python(Path(venv)))
