"""How long data takes to load and a policy to be evaluated, for speed.py."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
from latency import ACTION_DIM, OBS_DIM

from cmpolicy import ConsistencyPolicy
from cmpolicy.agents.agent import AgentConfig
from cmpolicy.datasets.d4rl_hdf5 import load_hdf5
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.rl.rollout import roll_out

ENVIRONMENTS, EPISODE, UPDATES = 10, 1_000, 10_000  # of an evaluation, of one, between two
COMPRESSIONS = {"uncompressed": None, "gzip, as D4RL's": "gzip"}


def loading_figures(steps: int) -> dict[str, Any]:
    """Seconds of reading a file and aligning it: ours, the best of three, and by the loop."""
    files: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, compression in COMPRESSIONS.items():
            path = write_file(Path(folder) / "hopper.hdf5", steps, compression)
            ours = np.inf
            for _ in range(3):  # the first one also imports, and asks the system for memory
                begin = time.process_time()
                dataset = load_hdf5(path)
                ours = min(ours, time.process_time() - begin)
            begin = time.process_time()
            columns = loop(path)
            theirs = time.process_time() - begin
            check_same(dataset, columns)
            files[kind] = {"ours_s": ours, "loop_s": theirs, "ratio": theirs / ours}
    return {"steps": steps, "files": files}


def write_file(path: Path, steps: int, compression: str | None) -> Path:
    """Random steps in D4RL's layout; every 200th ends an episode, in turn by failure or timeout."""
    rng = np.random.default_rng(0)
    last = np.arange(steps) % 200 == 199
    terminals = last & (np.arange(steps) // 200 % 2 == 0)
    arrays = {
        "observations": rng.standard_normal((steps, OBS_DIM), np.float32),
        "actions": rng.uniform(-1, 1, (steps, ACTION_DIM)).astype(np.float32),
        "rewards": rng.standard_normal(steps, np.float32),
        "terminals": terminals,
        "timeouts": last & ~terminals,
    }
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression=compression)
    return path


def loop(path: Path) -> dict[str, Any]:
    """What D4RL does step by step: read all arrays, then go through them, one row at a time."""
    with h5py.File(path) as file:
        data = {name: file[name][()] for name in file}
    columns: dict[str, list[Any]] = {
        name: [] for name in ("observations", "next_observations", "actions", "rewards", "ends")
    }
    for i in range(len(data["rewards"]) - 1):
        observation = data["observations"][i].astype(np.float32)
        following = data["observations"][i + 1].astype(np.float32)
        action = data["actions"][i].astype(np.float32)
        reward = data["rewards"][i].astype(np.float32)
        terminal = bool(data["terminals"][i])
        if data["timeouts"][i]:  # its next observation is another episode's
            continue
        columns["observations"].append(observation)
        columns["next_observations"].append(following)
        columns["actions"].append(action)
        columns["rewards"].append(reward)
        columns["ends"].append(terminal)
    return {name: np.array(rows) for name, rows in columns.items()}


def check_same(dataset: TransitionDataset, columns: dict[str, Any]) -> None:
    """End the benchmark unless both hold the same transitions.

    A file's last row counts where it is terminal, which D4RL's loop drops.
    """
    b = dataset.transitions
    ours = (b.observations, b.next_observations, b.actions, b.rewards, b.terminals)
    for tensor, (name, array) in zip(ours, columns.items(), strict=True):
        if not np.array_equal(tensor[: len(array)].numpy(), array.astype(np.float32)):
            raise SystemExit(f"ours and the loop's {name} are not the same")


def evaluation_figures(update: float, quick: bool) -> dict[str, float]:
    """Steps a second of an evaluation, and its share of a run with updates of `update` seconds."""
    policy = ConsistencyPolicy(OBS_DIM, ACTION_DIM)
    limit = 20 if quick else EPISODE

    def make_env() -> gymnasium.Env[Any, Any]:
        return gymnasium.make("Hopper-v5", terminate_when_unhealthy=False, max_episode_steps=limit)

    begin = time.process_time()
    act = partial(policy.act, mode_of=AgentConfig().mode_of)
    episodes = roll_out(act, make_env, ENVIRONMENTS, 0)
    seconds = time.process_time() - begin
    steps = float(episodes.lengths.sum())
    whole = seconds / steps * ENVIRONMENTS * EPISODE
    return {"steps_per_second": steps / seconds, "share": whole / (whole + UPDATES * update)}
