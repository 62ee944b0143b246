"""Final weights of seven short runs, trained by two installations, compared bit for bit.

    python benchmarks/same_weights.py before=PATH/bin/python after=PATH/bin/python

A change of layout or of speed must not change results. Each run is `python -m cmpolicy.train` with
one thread, eager, in float32, on the data in the package. All tensors of the last checkpoint count:
weights, averages, states of optimisers and of generators. Where their names differ they are
compared in the order of the checkpoint. Exit code 1 if anything differs.

Options:
    before, after  Python interpreters, each with its own installation of cmpolicy
    updates        of each run
    only           names of runs; all by default
    keep           a directory for the runs; a temporary one by default
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from command_line import read_options
from torch import Tensor

COMMON = ("seed=0", "threads=1", "device=cpu", "precision=fp32", "accelerate=off", "progress=false")
RL = (
    *("env=hopper-medium", "dataset.source=sample"),
    *("eval.episodes=1", "eval.final_episodes=1"),
)
TOY = ("--config-name", "toy", "toy=three_gmm", "loss=scd", "eval.samples=1000")
IMAGE = (
    *("--config-name", "image", "data=digits", "image_loss=cd"),
    *("batch_size=16", "network.channels=8", "eval.samples=50", "eval.final_samples=50"),
)
SIDES = ("before", "after")
AGENTS = ("bc", "ac", "iql", "diffusion_ql", "ac_ding_jin")
RUNS: dict[str, tuple[str, ...]] = {
    **{name: (*RL, f"agent={name}") for name in AGENTS},
    "toy": TOY,
    "image": IMAGE,
}


def run(python: str, *arguments: str, directory: Path) -> str:
    """What an interpreter prints, with its own installation and one thread."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    variables.pop("PYTHONPATH", None)
    command, options = [python, *arguments], {"capture_output": True, "text": True}
    done = subprocess.run(command, check=False, cwd=directory, env=variables, **options)
    if done.returncode:
        sys.exit(f"{python} {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def train(python: str, name: str, directory: Path, updates: int) -> float:
    """Train one run into `directory`; returns its seconds."""
    lengths = [f"{key}={updates}" for key in ("steps", "eval.every", "checkpoint_every")]
    if name in ("toy", "image"):
        lengths.append(f"loss.teacher_steps={updates // 2}")
    options = [*RUNS[name], *COMMON, *lengths, f"run_dir={directory}"]
    directory.parent.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    run(python, "-m", "cmpolicy.train", *options, directory=directory.parent)
    return time.perf_counter() - begin


def names_in(tree: Any) -> Iterator[str]:
    """The names of the tensors in the tree of a checkpoint, in its order."""
    if isinstance(tree, dict):
        if "__tensor__" in tree:
            yield tree["__tensor__"]
        else:
            for child in tree.values():
                yield from names_in(child)
    elif isinstance(tree, list):
        for child in tree:
            yield from names_in(child)


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of the last checkpoint, in the order of its tree."""
    path = directory / "checkpoints" / "last.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        tree = json.loads(file.metadata()["tree"])
        return {name: file.get_tensor(name) for name in names_in(tree)}


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one shape, one type and the same bits."""
    alike = a.shape == b.shape and a.dtype == b.dtype
    return alike and a.numpy().tobytes() == b.numpy().tobytes()


def compare(before: dict[str, Tensor], after: dict[str, Tensor]) -> tuple[str, int]:
    """How tensors were paired, and how many differ or have no partner."""
    if before.keys() == after.keys():
        return "name", sum(not same(before[name], after[name]) for name in before)
    pairs = zip(before.values(), after.values(), strict=False)
    missing = abs(len(before) - len(after))
    return "order", missing + sum(not same(a, b) for a, b in pairs)


def main(arguments: Sequence[str]) -> int:
    """Train, compare, print the table; returns the exit code."""
    defaults = {"before": None, "after": sys.executable, "updates": 500, "only": None, "keep": None}
    options = read_options(arguments, defaults)
    if options["before"] is None:
        sys.exit("give before=PYTHON, and after=PYTHON if that is not this one")
    names = options["only"] or list(RUNS)
    wrong, where = 0, ("-c", "import cmpolicy; print(cmpolicy.__file__)")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options["keep"] or temporary).resolve()
        places = [run(options[key], *where, directory=Path(temporary)) for key in SIDES]
        if places[0] == places[1]:
            sys.exit(f"before and after are one installation, {places[0]}")
        print(f"{options['updates']} updates, eager, one thread, seed 0, torch {torch.__version__}")
        print("| run | tensors | numbers | paired by | different | seconds before | after |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for name in names:
            seconds, tensors = [], []
            for side in SIDES:
                directory = folder / side / name
                seconds.append(train(options[side], name, directory, options["updates"]))
                tensors.append(read_tensors(directory))
            paired, different = compare(*tensors)
            wrong += different
            count = sum(t.numel() for t in tensors[0].values())
            row = [name, len(tensors[0]), f"{count:,}", paired, different]
            cells = [*map(str, row), *(f"{s:.0f}" for s in seconds)]
            print(f"| {' | '.join(cells)} |", flush=True)
    print("all equal" if not wrong else f"{wrong} tensors differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
