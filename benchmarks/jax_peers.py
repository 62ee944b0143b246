"""Offline RL: TD3+BC, IQL and ReBRAC as others published them in JAX, as rows of a table.

    git clone https://github.com/tinkoff-ai/ReBRAC CLONES/ReBRAC
    git clone https://github.com/ikostrikov/implicit_q_learning CLONES/implicit_q_learning
    git clone https://github.com/nissymori/JAX-CORL CLONES/JAX-CORL
    python benchmarks/jax_peers.py clones=CLONES files=[sac/hopper-medium.hdf5] out=TABLE.csv
    python benchmarks/jax_peers.py clones=CLONES files=[…] discounts=[0.99,0.998] at_once=true

    files        D4RL-layout HDF5 files that name their environment; a set is called as its file
    peers        of td3_bc, iql and rebrac
    discounts    a run for each; settings={peer: {name: number}} changes others, see peers/jax_….py
    seeds        a run for each
    updates      of a run, and its `checkpoints`, which are evaluated over `starts` fresh starts
                 each; the last and the best once more over `final` others
    batch_size   by default the published one: 256, ReBRAC's 1,024
    jobs         processes that train or evaluate at a time
    at_once      true: all runs of a peer train in one process side by side, for a GPU
    python       an interpreter with JAX; by default that of an environment made at `venv`
    runs         where checkpoints are kept

The table is one of offline_rl.py's. A run gives two rows: of the actor, and of its average over
the last twentieth of the training (label `…_averaged`). A row that is in the table already is not
made again, and a run that has been trained is not trained again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
from command_line import given_options
from filelock import FileLock
from jax_peers_rows import Run, evaluate, row_of
from offline_rl_rows import Row, add_rows, read_rows
from peers.environment import jax_python
from peers.peer_transitions import Transitions
from peers.turns import ONE_THREAD

from cmpolicy.datasets.alignment import align_arrays

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")


@dataclass
class Options:
    """What the command line says; see the top of the file."""

    clones: str = ""
    files: list[str] = field(default_factory=list)
    peers: list[str] = field(default_factory=lambda: ["td3_bc", "iql", "rebrac"])
    discounts: list[float] = field(default_factory=lambda: [0.99])
    settings: dict[str, dict[str, float]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    updates: int = 200_000
    checkpoints: int = 20
    starts: int = 20
    final: int = 20
    batch_size: int | None = None
    jobs: int = 1
    at_once: bool = False
    python: str | None = None
    venv: str = str(PEERS / "jax" / ".venv")
    out: str = str(HERE / "results" / "offline_rl_standard.csv")
    runs: str = str(HERE / "results" / "runs" / "jax_peers")


def main(arguments: list[str]) -> int:
    options = read_options(arguments)
    table = Path(options.out)
    there = {row.key for row in read_rows(table)}
    runs = [run for run in runs_of(options) if not there.issuperset(run.keys())]
    print(f"{len(runs)} runs to do")
    python = options.python or str(jax_python(Path(options.venv)))
    spawned = get_context("spawn")
    with (
        ThreadPoolExecutor(options.jobs) as trainers,
        ProcessPoolExecutor(options.jobs, mp_context=spawned) as evaluators,
    ):
        groups = list(grouped(runs, at_once=options.at_once))
        for rows in trainers.map(lambda g: rows_of(g, python, options, evaluators), groups):
            add_rows(table, [row for row in rows if row.key not in there])
    return 0


def read_options(arguments: list[str]) -> Options:
    options = Options(**given_options(arguments, [f.name for f in fields(Options)]))
    if not options.clones or not options.files:
        sys.exit("give clones=FOLDER of the repositories and files=[FILE.hdf5, …]")
    every, rest = divmod(options.updates, options.checkpoints)
    if rest or every % 100:
        sys.exit("updates must part into checkpoints of a multiple of 100 updates each")
    return options


def runs_of(options: Options) -> Iterator[Run]:
    """Sets × peers × discounts × seeds."""
    for seed in options.seeds:
        for file in options.files:
            for peer in options.peers:
                for discount in options.discounts:
                    settings = {"discount": discount, **options.settings.get(peer, {})}
                    yield Run(Path(file), peer, settings, seed)


def grouped(runs: list[Run], *, at_once: bool) -> Iterator[list[Run]]:
    """Those that train in one process."""
    if not at_once:
        yield from ([run] for run in runs)
        return
    for peer in dict.fromkeys(run.peer for run in runs):
        yield [run for run in runs if run.peer == peer]


def rows_of(
    runs: list[Run], python: str, options: Options, evaluators: ProcessPoolExecutor
) -> list[Row]:
    """Train runs of one peer in a process of their own, evaluate them, and make their rows."""
    key = runs[0].key
    name = "-".join(map(str, key)) if len(runs) == 1 else f"{runs[0].peer}-{len(runs)}-at-once"
    directory = Path(options.runs) / name
    directory.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    trained = train(runs, python, directory, options)
    every = options.updates // options.checkpoints
    files = {every * n: directory / f"{every * n}.npz" for n in range(1, options.checkpoints + 1)}
    episodes = options.starts, options.final
    numbered = list(enumerate([*runs, *runs]))  # the actors of a checkpoint, and their averages
    scores = [evaluate(number, run, files, episodes, evaluators) for number, run in numbered]
    seconds = (time.perf_counter() - begin) / len(runs)
    rows = []
    for (number, run), found in zip(numbered, scores, strict=True):
        key = run.keys()[number >= len(runs)]
        rows.append(row_of(key, run, trained, found, seconds, len(runs)))
        print(f"{key.set} {key.agent} {key.seed}: {rows[-1].score:.1f}", flush=True)
    return rows


# Training -------------------------------------------------------------------------------------


def train(runs: list[Run], python: str, directory: Path, options: Options) -> dict[str, Any]:
    """What training.json says in the end."""
    files = {run.file.stem: run.file for run in runs}
    job = {
        "peer": runs[0].peer,
        "clones": str(Path(options.clones).resolve()),
        "sets": {name: str(transitions_file(file, options)) for name, file in files.items()},
        "replicas": [
            {"set": run.file.stem, "seed": run.seed, "settings": run.settings} for run in runs
        ],
        "updates": options.updates,
        "checkpoints": options.checkpoints,
        "batch_size": options.batch_size,
        "directory": str(directory),
    }
    written, text = directory / "job.json", json.dumps(job, indent=1)
    done = directory / "training.json"
    if not (done.exists() and written.read_text() == text):
        done.unlink(missing_ok=True)
        written.write_text(text)
        train_process(written, python, options)
    found: dict[str, Any] = json.loads(done.read_text())
    return found


def train_process(job: Path, python: str, options: Options) -> None:
    """Train a job.

    Raises:
        RuntimeError: with the last line of what it had to say, if it fails.
    """
    command = [python, str(PEERS / "jax_training.py"), str(job)]
    environment = {**os.environ, **({} if options.at_once else ONE_THREAD)}
    log = job.with_name("log")
    with log.open("w") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        )
    if done.returncode:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(f"training failed ({log}): {last}")


def transitions_file(file: Path, options: Options) -> Path:
    """The transitions of a set as the training reads them, once for all runs."""
    path = Path(options.runs) / "data" / f"{file.stem}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists() or path.stat().st_mtime < file.stat().st_mtime:
            with h5py.File(file) as opened:
                arrays = {name: opened[name][()] for name in COLUMNS if name in opened}
            Transitions.of_steps(align_arrays(**arrays)).save(path)
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
