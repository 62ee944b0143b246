"""OGBench's files (Park et al. 2025), relabelled by its own package for one task of a scene."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmpolicy.datasets.alignment import Steps, returns_of
from cmpolicy.datasets.array_validation import checked_flags, checked_matrix, checked_vector
from cmpolicy.datasets.pictures import read_pictures
from cmpolicy.datasets.transitions import DatasetInfo, TransitionDataset
from cmpolicy.download import download
from cmpolicy.errors import InputError, one_line

OGBENCH_URL = "https://rail.eecs.berkeley.edu/datasets/ogbench"
SUCCESS = "SuccessReward"  # wrapper of the environment, by which a return is 1 or 0
# of its environments: a machine without a screen, bounds of observations in float64
HARMLESS = (".*DISPLAY environment variable is missing", ".*precision lowered by casting")
SUCCESSFUL = 1e-6  # an episode's largest reward is 0 where the goal is reached


def ogbench_directory() -> Path:
    """`$OGBENCH_DATASET_DIR`, or where the package keeps its files: `~/.ogbench/data`."""
    return Path(os.environ.get("OGBENCH_DATASET_DIR") or "~/.ogbench/data").expanduser()


def ogbench_names(ogbench_id: str) -> tuple[str, str]:
    """The names of the file and of the environment of ``SCENE-DATA-singletask[-taskN]-v0``.

    Raises:
        InputError: for another name.
    """
    scene, _, task = ogbench_id.partition("-singletask")
    place, _, kind = scene.rpartition("-")
    version = task.rpartition("-")[2]
    if not task or not place:
        raise InputError(
            f"{ogbench_id!r} is not SCENE-DATA-singletask-v0 or SCENE-DATA-singletask-taskN-v0, as "
            "in cube-single-play-singletask-task1-v0: the data alone have no rewards"
        )
    return f"{place}-{kind}-{version}", f"{place}-singletask{task}"


def ogbench_on_disk(ogbench_id: str) -> Path | None:
    """The file of a task under `ogbench_directory()`."""
    path = ogbench_directory() / f"{ogbench_names(ogbench_id)[0]}.npz"
    return path if path.is_file() else None


def download_ogbench(ogbench_id: str) -> Path:
    """Fetch the file of a task into `ogbench_directory()`, and return its path.

    `$OGBENCH_MIRROR` replaces `OGBENCH_URL`.

    Raises:
        InputError: nobody answers, or the transfer breaks.
    """
    name = f"{ogbench_names(ogbench_id)[0]}.npz"
    base = os.environ.get("OGBENCH_MIRROR") or OGBENCH_URL
    url = f"{base.rstrip('/')}/{name}"
    return download(url, ogbench_directory() / name, mirror_variable="OGBENCH_MIRROR")


def register_ogbench(name: str) -> None:
    """Make OGBench's environments known.

    Raises:
        InputError: if the package is not there.
    """
    if importlib.util.find_spec("ogbench") is None:
        raise InputError(f"{name} needs ogbench: pip install -e '.[ogbench]'")
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message)
    import ogbench  # noqa: F401


def load_ogbench(ogbench_id: str, path: Path) -> TransitionDataset:
    """Read a file for one task: rewards and masks are those that its package computes.

    A success masks the bootstrap, but the episode goes on, as in the package. An episode's return
    in `info` is 1 where it reaches the goal, the score's unit.

    Raises:
        InputError: the package is missing, or the file is none of OGBench's for this task.
    """
    register_ogbench(ogbench_id)
    import gymnasium
    from ogbench.relabel_utils import relabel_dataset

    file_name, env_id = ogbench_names(ogbench_id)
    pictures = None
    try:
        with np.load(path) as file:
            kept = np.flatnonzero(~file["terminals"].astype(np.bool_))  # a successor is known
            ends = file["terminals"][kept + 1].astype(np.bool_)
            others = [k for k in ("actions", "qpos", "qvel", "button_states") if k in file]
            columns: dict[str, Any] = {key: file[key][kept] for key in others}
            regenerated = "generated_by" in file
            if ogbench_id.startswith("visual-"):
                pictures = read_pictures(path)
                seen = np.arange(len(pictures), dtype=np.float32)[:, None]
            else:
                seen = checked_matrix("observations", file["observations"])
        env = gymnasium.make(env_id.removeprefix("visual-"))  # the same goals, without a renderer
        relabel_dataset(env_id, env, columns)
        env.close()
    except gymnasium.error.Error as error:
        raise InputError(f"OGBench has no task {ogbench_id}: {error}") from None
    except Exception as error:  # of a zip, an array, a key
        reason = one_line(error)
        raise InputError(f"{path} is not OGBench's {file_name}.npz, or damaged: {reason}") from None
    rewards = checked_vector("rewards", columns["rewards"])
    success = checked_flags("masks", columns["masks"] == 0)
    actions = checked_matrix("actions", columns["actions"]).clip(-1, 1)
    known = np.ones_like(ends)
    steps = Steps(seen[kept], actions, rewards, seen[kept + 1], success, ends, known)
    reached = returns_of((rewards > -SUCCESSFUL).astype(np.float32), ends) > 0
    info = DatasetInfo(
        *(ogbench_id, "regenerated" if regenerated else "ogbench", str(path), env_id),
        env_wrappers=[{"name": SUCCESS}],
        comparable=not regenerated,
        ref_min_score=0.0,
        ref_max_score=1.0,
    )
    dataset = TransitionDataset.from_steps(steps, info)
    mean, std, frames, shape = float(reached.mean()), float(reached.std()), None, None
    if pictures is not None:
        frames = torch.from_numpy(pictures.reshape(len(pictures), -1))
        shape = list(pictures.shape[1:])
    info = dataclasses.replace(dataset.info, mean_return=mean, std_return=std, picture_shape=shape)
    return dataset.changed(info=info, frames=frames)
