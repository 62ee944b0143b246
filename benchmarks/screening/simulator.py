"""Hopper, HalfCheetah and Walker2d, thousands at a time: MuJoCo's threads and numpy.

With the default arguments of Gymnasium's -v4 and -v5 environments, bit for bit
(tests/benchmarks/test_screening_script.py). It needs MuJoCo ≥ 4 for `mujoco.batch`, and Gymnasium
only for its XML files.
"""

from __future__ import annotations

import importlib.util
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mujoco
import numpy as np
from mujoco import batch as mujoco_batch

MAX_STEPS = 1000
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Robot:
    """Constants of one Gymnasium environment; `healthy_z` is None where nothing terminates."""

    xml: dict[str, str]
    frame_skip: int
    control_cost: float
    noise: float
    normal_velocities: bool = False  # of the first state; else uniform
    clip_velocities: bool = True
    healthy_z: tuple[float, float] | None = None
    healthy_angle: tuple[float, float] = (0.0, 0.0)
    healthy_state: tuple[float, float] | None = None


ROBOTS = {
    "hopper": Robot(
        {"v4": "hopper.xml", "v5": "hopper.xml"},
        frame_skip=4,
        control_cost=1e-3,
        noise=5e-3,
        healthy_z=(0.7, float("inf")),
        healthy_angle=(-0.2, 0.2),
        healthy_state=(-100.0, 100.0),
    ),
    "halfcheetah": Robot(
        {"v4": "half_cheetah.xml", "v5": "half_cheetah.xml"},
        frame_skip=5,
        control_cost=0.1,
        noise=0.1,
        normal_velocities=True,
        clip_velocities=False,
    ),
    "walker2d": Robot(
        {"v4": "walker2d.xml", "v5": "walker2d_v5.xml"},
        frame_skip=4,
        control_cost=1e-3,
        noise=5e-3,
        healthy_z=(0.8, 2.0),
        healthy_angle=(-1.0, 1.0),
    ),
}


def load_model(name: str, version: str) -> Any:
    """The MjModel of an environment, from the assets of the installed Gymnasium."""
    spec = importlib.util.find_spec("gymnasium")  # which is not imported
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("gymnasium is not installed; its XML files are needed")
    assets = Path(spec.origin).parent / "envs" / "mujoco" / "assets"
    # MuJoCo logs a deprecated attribute of HalfCheetah's file where the process stands
    with TemporaryDirectory() as elsewhere, chdir(elsewhere):
        return mujoco.MjModel.from_xml_path(str(assets / ROBOTS[name].xml[version]))


class BatchEnvironments:
    """n environments of one robot. One that is done stays as it is and gives reward 0.

    Attributes:
        alive: (n,) bool.
        lengths, returns: (n,), of the episodes so far.
    """

    def __init__(self, name: str, n: int, threads: int, version: str, seed: int) -> None:
        self.n, self.version, self.robot = n, version, ROBOTS[name]
        self.model = load_model(name, version)
        self.action_dim = int(self.model.nu)
        self.obs_dim = int(self.model.nq + self.model.nv - 1)
        self.seconds_a_step = self.model.opt.timestep * self.robot.frame_skip
        self.rng = np.random.default_rng(seed)
        self.batch = mujoco_batch.Batch(self.model, n, threads)
        # views of the states, which stay where they are
        self.qpos, self.qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        self.control = self.batch.bind("ctrl")
        self.alive = np.zeros(n, bool)

    def reset(self, seeds: list[int] | None = None) -> Array:
        """Begin all episodes; with `seeds`, as Gymnasium's `reset(seed=…)` does: (n, obs_dim)."""
        if seeds is None:
            dq, dv = self.initial_noise(self.rng, (self.n,))
        else:
            pairs = [self.initial_noise(np.random.default_rng(s), ()) for s in seeds]
            dq, dv = (np.stack(part) for part in zip(*pairs, strict=True))
        self.batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self.qpos[:], self.qvel[:] = self.model.qpos0 + dq, dv
        self.batch.forward()  # as Gymnasium's set_state, which gives the solver its warm start
        self.alive = np.ones(self.n, bool)
        self.lengths, self.returns = np.zeros(self.n, np.int64), np.zeros(self.n)
        self.observations = self.observe(np.arange(self.n)).astype(np.float32)
        return self.observations.copy()

    def initial_noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """Of positions and velocities, in Gymnasium's order of draws."""
        scale, nq, nv = self.robot.noise, self.model.nq, self.model.nv
        dq = rng.uniform(-scale, scale, (*shape, nq))
        if self.robot.normal_velocities:
            return dq, scale * rng.standard_normal((*shape, nv))
        return dq, rng.uniform(-scale, scale, (*shape, nv))

    def observe(self, ids: Array) -> Array:
        """Observations as Gymnasium gives them, float64."""
        qpos, qvel = self.qpos[ids], self.qvel[ids]
        if self.robot.clip_velocities:
            qvel = np.clip(qvel, -10, 10)
        return np.concatenate((qpos[:, 1:], qvel), axis=1)

    def step(self, actions: Array) -> tuple[Array, Array]:
        """Act: (n, action_dim) → observations (n, obs_dim) float32, rewards (n,)."""
        rewards = np.zeros(self.n)
        ids = np.flatnonzero(self.alive)
        if len(ids):
            chosen, before = actions[ids], self.qpos[ids, 0]
            self.control[ids] = chosen
            self.batch.step(ids, nstep=self.robot.frame_skip)
            healthy = self.healthy(ids)
            gain = (self.qpos[ids, 0] - before) / self.seconds_a_step
            if self.robot.healthy_z is not None:  # v4 pays on the terminal step too
                gain += 1.0 if self.version == "v4" else healthy
            rewards[ids] = gain - self.robot.control_cost * np.square(chosen).sum(axis=1)
            self.returns += rewards
            self.lengths[ids] += 1
            self.alive[ids] = healthy & (self.lengths[ids] < MAX_STEPS)
            self.observations[ids] = self.observe(ids)
        return self.observations.copy(), rewards

    def healthy(self, ids: Array) -> Array:
        """Which of some environments go on, (len(ids),) bool."""
        robot = self.robot
        if robot.healthy_z is None:
            return np.ones(len(ids), bool)
        qpos, qvel = self.qpos[ids], self.qvel[ids]
        z, angle = qpos[:, 1], qpos[:, 2]
        ok = (robot.healthy_z[0] < z) & (z < robot.healthy_z[1])
        ok &= (robot.healthy_angle[0] < angle) & (angle < robot.healthy_angle[1])
        if robot.healthy_state is not None:
            low, high = robot.healthy_state
            for state in (qpos[:, 2:], qvel):
                ok &= ((low < state) & (state < high)).all(axis=1)
        return ok
