"""Keys of an RL run with their types, defaults and ranges.

Hydra composes `configs/` against these dataclasses and refuses a wrong key or type. Those of an
agent stand in its file, those of a task in `tasks.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from cmpolicy.agents import AGENTS
from cmpolicy.agents.ding_jin import published
from cmpolicy.cli.run_config import RunConfig, check_positive, check_seed
from cmpolicy.plugins import find, find_all
from cmpolicy.rl.tasks import TASKS, EnvConfig


@dataclass
class DatasetConfig:
    """Where the transitions come from.

    Attributes:
        source: ``auto`` (see the README for the order), or the one source to use.
        path: a D4RL-layout HDF5 file, a Minari dataset's directory or id, OGBench's file, or an
            archive of pictures, see `cmpolicy.datasets.pictures`.
        future_goals: copies of the steps, in which the goal is what their episode reached later.
    """

    source: str = "auto"
    path: str | None = None
    future_goals: int = 0

    def __post_init__(self) -> None:
        if self.future_goals < 0:
            raise ValueError(f"need dataset.future_goals ≥ 0, got {self.future_goals}")


@dataclass
class EvalConfig:
    """Evaluation in the environment.

    Attributes:
        every: updates between two evaluations.
        episodes: of each evaluation during training.
        final_episodes: of the evaluation of the last and the best checkpoint at the end.
        timeout: seconds within which an environment is made, reset or does a step; evaluations then
            run in a process of their own, and one that hangs or exits ends only the evaluation.
            null for evaluations in this process.
        tolerated_failures: evaluations in succession that may fail by an exception of the
            environment or by its timeout; the next one ends the run.
        parallel: how many environments exist at once: ``auto`` for one an episode, or as many as
            can be made; 1 where they share a port, a licence or a robot.
        video_every: evaluations between two videos, videos/step-N.mp4; 0 for none.
    """

    every: int = 10_000
    episodes: int = 10
    final_episodes: int = 20
    timeout: float | None = None
    tolerated_failures: int = 3
    parallel: Any = "auto"
    video_every: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "every", "episodes", "final_episodes")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError(f"eval.timeout must be seconds above 0, got {self.timeout}")
        if self.tolerated_failures < 0:
            raise ValueError(
                f"eval.tolerated_failures must be at least 0, got {self.tolerated_failures}"
            )
        if self.video_every < 0:
            raise ValueError(f"eval.video_every must be at least 0, got {self.video_every}")
        if self.parallel != "auto" and (type(self.parallel) is not int or self.parallel < 1):
            raise ValueError(f"eval.parallel must be auto or at least 1, got {self.parallel!r}")

    @property
    def instances(self) -> int | None:
        """How many environments exist at once; None for one an episode."""
        return None if self.parallel == "auto" else int(self.parallel)


@dataclass
class OnlineConfig:
    """Training that goes on in the environment.

    Attributes:
        steps: of the environment, after the `steps` updates on the data alone, which may be 0.
        updates_per_step: updates after each of them.
        return_temperature: in place of the agent's from then on, where that is not 0: an agent's
            own episodes differ by less than those in the data.
    """

    steps: int = 0
    updates_per_step: int = 1
    return_temperature: float = 0.02

    def __post_init__(self) -> None:
        check_positive(self, "updates_per_step")
        if self.steps < 0 or self.return_temperature <= 0:
            raise ValueError(
                "need online.steps ≥ 0 and online.return_temperature > 0, got "
                f"{self.steps} and {self.return_temperature}"
            )


@dataclass
class RLConfig(RunConfig):
    """Offline reinforcement learning: `python -m cmpolicy.train env=NAME`.

    With `online.steps` the agent goes on in the environment afterwards.

    Attributes:
        seeds: several, trained at once on one device, each as with that `seed` alone: a list, or
            how many from 0 on; null for `seed`.
    """

    OWN_KEY: ClassVar[str] = "agent"

    seeds: Any = None
    env: EnvConfig = field(default_factory=EnvConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    agent: Any = MISSING
    eval: EvalConfig = field(default_factory=EvalConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)

    @property
    def updates(self) -> int:
        """On the data alone, and online."""
        return self.steps + self.online.steps * self.online.updates_per_step

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds is None:
            return
        if self.seed:
            raise ValueError(f"give seed or seeds, got seed={self.seed} and seeds={self.seeds}")
        if type(self.seeds) is int and self.seeds > 0:
            self.seeds = list(range(self.seeds))
        whole = isinstance(self.seeds, list) and all(type(seed) is int for seed in self.seeds)
        if not whole or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds must be a number above 0 or a list of different ones, got {self.seeds}"
            )
        for seed in self.seeds:
            check_seed(seed)
        if self.online.steps:
            raise ValueError(
                f"seeds train on data alone, got online.steps={self.online.steps}; give seed"
            )

    @classmethod
    def schema_of(cls, stored: Any) -> RLConfig:
        """With the configuration of the stored agent."""
        return cls(agent=find("agent", AGENTS, stored.agent.algorithm).Config())

    def each_seed(self) -> list[RLConfig]:
        """The configurations that would train each of `seeds` alone."""
        return [replace(self, seed=seed, seeds=None) for seed in self.seeds]


OmegaConf.register_new_resolver("published", published, replace=True)
store = ConfigStore.instance()
store.store(name="rl_schema", node=RLConfig)
IN_FILES = tuple(AGENTS)  # those of the library have a file in configs/agent/


def store_names() -> None:
    """Tell Hydra the names of all tasks and agents, those of installed packages too."""
    for name, task in find_all("task", TASKS).items():
        store.store(group="env", name=name, node=replace(task, name=name))
    for name, agent in find_all("agent", AGENTS).items():
        store.store(group="agent", name=f"{name}_schema", node=agent.Config)
        if name not in IN_FILES:
            store.store(group="agent", name=name, node=agent.Config)


store_names()
