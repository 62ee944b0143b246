"""Tasks by name: the data of each, and the environment that its policies are evaluated in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from cmpolicy.plugins import registering


@dataclass
class EnvConfig:
    """A task.

    Attributes:
        name: what the run and the results call it.
        id: Gymnasium id of the evaluation environment, `module:Id` where a module of your own
            registers it; null for the one that belongs to the data; ``none`` to train without.
        kwargs: keyword arguments of `gymnasium.make`, as ``env.kwargs={gravity: 3.7}``.
        max_episode_steps: where episodes are cut, in the environment and in data that does not
            say; null for the environment's own limit.
        d4rl_id, d4rl_env_id: the D4RL dataset, and the environment that its data goes with.
        d4rl_max_episode_steps: where D4RL cuts the episodes of that environment, if not where
            Gymnasium does.
        minari_id: the Minari dataset.
        ogbench_id: OGBench's name of the task, data and scene and which of its goals.
        reward: a name in `cmpolicy.datasets.rewards`.
    """

    name: str = MISSING
    id: str | None = None
    kwargs: Any = None
    max_episode_steps: int | None = None
    d4rl_id: str | None = None
    d4rl_env_id: str | None = None
    d4rl_max_episode_steps: int | None = None
    minari_id: str | None = None
    ogbench_id: str | None = None
    reward: str = "none"

    def __post_init__(self) -> None:
        if not isinstance(self.kwargs, dict | None):
            raise ValueError(f"env.kwargs must be names and values, got {self.kwargs!r}")
        if isinstance(self.max_episode_steps, int) and self.max_episode_steps < 1:
            raise ValueError(
                f"env.max_episode_steps must be at least 1, got {self.max_episode_steps}"
            )


LOCOMOTION = {"halfcheetah": "HalfCheetah-v4", "hopper": "Hopper-v4", "walker2d": "Walker2d-v4"}
ADROIT = ("pen", "hammer", "door", "relocate")
MAZES = {"umaze": "UMaze", "medium": "Medium", "large": "Large"}


def _locomotion(body: str, behaviour: str) -> EnvConfig:
    name = f"{body}-{behaviour}"
    in_minari = behaviour in ("simple", "medium", "expert")
    in_d4rl = behaviour != "simple"
    return EnvConfig(
        name,
        d4rl_id=f"{name}-v2" if in_d4rl else None,
        d4rl_env_id=LOCOMOTION[body] if in_d4rl else None,
        minari_id=f"mujoco/{body}/{behaviour}-v0" if in_minari else None,
    )


def _adroit(task: str, behaviour: str) -> EnvConfig:
    return EnvConfig(
        f"{task}-{behaviour}",
        d4rl_id=f"{task}-{behaviour}-v1",
        d4rl_env_id=f"AdroitHand{task.title()}-v1",
        d4rl_max_episode_steps=100 if task == "pen" else None,  # Gymnasium's pen has 200
        minari_id=f"D4RL/{task}/{behaviour}-v2",
        reward="normalize",
    )


def _antmaze(maze: str) -> EnvConfig:
    return EnvConfig(
        f"antmaze-{maze}",
        d4rl_id=f"antmaze-{maze}-v2",
        d4rl_env_id=f"AntMaze_{MAZES[maze.partition('-')[0]]}-v4",
        minari_id=f"D4RL/antmaze/{maze}-v1",
        reward="iql_antmaze",
    )


def _pointmaze(maze: str) -> EnvConfig:
    return EnvConfig(f"pointmaze-{maze}", minari_id=f"D4RL/pointmaze/{maze}-v2")


def _kitchen(behaviour: str) -> EnvConfig:
    return EnvConfig(
        f"kitchen-{behaviour}",
        d4rl_id=f"kitchen-{behaviour}-v0",
        d4rl_env_id="FrankaKitchen-v1",
        minari_id=f"D4RL/kitchen/{behaviour}-v2",
    )


# Others are given as env.ogbench_id=NAME. Those that have no task's number are the one task by
# which their scene is known.
OGBENCH = (
    *(f"cube-{cubes}-play" for cubes in ("single", "double", "triple", "quadruple")),
    *("scene-play", "puzzle-3x3-play", "puzzle-4x4-play"),
    *(f"pointmaze-{maze}-{way}" for maze in ("medium", "large") for way in ("navigate", "stitch")),
    *("antmaze-large-navigate", "antmaze-giant-navigate", "antsoccer-arena-navigate"),
    *("humanoidmaze-medium-navigate", "humanoidmaze-large-navigate"),
)


def _ogbench(data: str, task: str) -> EnvConfig:
    name = f"{data}-singletask{task}-v0"
    return EnvConfig(name, ogbench_id=name)


BEHAVIOURS = ("random", "medium", "medium-replay", "medium-expert", "expert", "simple")
TASKS: dict[str, EnvConfig] = {
    task.name: task
    for task in (
        EnvConfig("custom"),  # data of one's own: dataset.path=… env.id=…
        *(_locomotion(body, behaviour) for body in LOCOMOTION for behaviour in BEHAVIOURS),
        *(_adroit(task, who) for task in ADROIT for who in ("human", "cloned", "expert")),
        *map(_antmaze, ("umaze", "umaze-diverse", "medium-play", "medium-diverse")),
        *map(_antmaze, ("large-play", "large-diverse")),
        *map(_pointmaze, ("open", "umaze", "medium", "large")),
        *map(_pointmaze, ("open-dense", "umaze-dense", "medium-dense", "large-dense")),
        *map(_kitchen, ("complete", "partial", "mixed")),
        *(_ogbench(data, f"-task{i}" if i else "") for data in OGBENCH for i in range(6)),
    )
}
register_task = registering("task", TASKS)
