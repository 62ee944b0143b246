"""Which data a set of `offline_rl.py` is: a file of a folder, or the real dataset."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cmpolicy.datasets.ogbench import ogbench_names
from cmpolicy.rl.tasks import TASKS

# Behaviours that no task is named for, and whose settings they take.
NEAREST = {"mixed": "medium-replay"}
FLAT = ("observations", "actions", "rewards", "terminals", "timeouts")


def task_overrides(name: str, options: Any) -> list[str]:
    """What the train command must be told of a set.

    Args:
        name: environment-behaviour, such as hopper-mixed.
        options: with `data`, a folder or None; `source`; and `runs`, where what is put together
            is kept.
    """
    if name in TASKS and TASKS[name].ogbench_id:
        return ogbench_overrides(name, options.data)
    environment, _, behaviour = name.partition("-")
    task = f"{environment}-{NEAREST.get(behaviour, behaviour)}"
    if task not in TASKS:
        sys.exit(f"no set {name!r}: there is no task {task} in cmpolicy/rl/tasks.py")
    overrides = [f"env={task}", f"env.name={name}"]
    if options.data is None:
        return [*overrides, f"dataset.source={options.source}"]
    path = find_data(name, TASKS[task].minari_id, Path(options.data), Path(options.runs) / "data")
    return [*overrides, f"dataset.path='{path}'"]


def ogbench_overrides(name: str, data: str | None) -> list[str]:
    """The same for a task of OGBench, whose file is in the folder `data` or where it is by itself.

    A scene takes half a second to make, an episode in it a fifth.
    """
    found = [f"env={name}", "eval.parallel=4"]
    if data is None:
        return found
    path = Path(data) / f"{ogbench_names(name)[0]}.npz"
    if not path.is_file():
        sys.exit(f"no {path}; benchmarks/data/generate_ogbench.py makes it")
    return [*found, f"dataset.path='{path.resolve()}'"]


def find_data(name: str, minari_id: str | None, folder: Path, cache: Path) -> Path:
    """The file or Minari dataset of a set; medium-expert is put together where it is not there."""
    file, minari = folder / f"{name}.hdf5", folder / "minari" / str(minari_id)
    if file.is_file():
        return file.resolve()
    if minari_id is not None and minari.is_dir():
        return minari.resolve()
    environment, _, behaviour = name.partition("-")
    halves = [folder / f"{environment}-{half}.hdf5" for half in ("medium", "expert")]
    if behaviour == "medium-expert" and all(half.is_file() for half in halves):
        return concatenated(halves, cache / f"{name}.hdf5").resolve()
    there = sorted(path.stem for path in folder.glob("*.hdf5"))
    sys.exit(f"no {name} in {folder}; there are: {', '.join(there) or 'no files'}")


def concatenated(files: list[Path], path: Path) -> Path:
    """One file of all the steps of several, in this order; kept, and made again if one changed."""
    if path.is_file() and path.stat().st_mtime >= max(f.stat().st_mtime for f in files):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    parts = [steps_of(file) for file in files]
    environments = {env_id for _, env_id in parts}
    if len(environments) > 1:
        sys.exit(f"{', '.join(map(str, files))} are of several environments: {environments}")
    with h5py.File(part, "w") as file:
        for key in FLAT:
            file[key] = np.concatenate([steps[key] for steps, _ in parts])
        (env_id,) = environments
        if env_id is not None:
            file.attrs["env_id"] = env_id
        file.attrs["behaviour"] = " followed by ".join(f.stem for f in files)
    part.replace(path)
    return path


def steps_of(path: Path) -> tuple[dict[str, Any], str | None]:
    """The columns of a file and its environment; its last step ends an episode."""
    with h5py.File(path) as file:
        steps = {key: file[key][()] for key in FLAT}
        steps["timeouts"][-1] |= not steps["terminals"][-1]
        return steps, file.attrs.get("env_id")
