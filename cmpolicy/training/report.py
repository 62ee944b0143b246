"""What a task gives the command, and what is written of its run."""

from __future__ import annotations

import dataclasses
import datetime
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

from cmpolicy.training.loop import Dataset, Evaluation, Learner, TrainingLoop
from cmpolicy.training.machine import machine_name
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")
PACKAGES = ("cmpolicy", "torch", "numpy", "gymnasium", "mujoco", "minari")


class Reportable(Protocol):
    """What is trained, and what is written of it."""

    @property
    def learner(self) -> Learner: ...

    @property
    def dataset(self) -> Dataset: ...

    @property
    def device(self) -> torch.device: ...

    def run_name(self) -> str:
        """Task and method, a path below output_dir."""
        ...

    def description(self) -> dict[str, Any]:
        """What a result must say of its data and its method."""
        ...

    def draw(self, run: RunDirectory, evaluations: list[Evaluation], /) -> Path:
        """Write the picture of the run and tell where."""
        ...


class Task(Reportable, Protocol):
    """What a domain puts together: a learner, its data, what measures it, what is written of it."""

    def evaluate(self, step: int, /) -> Evaluation:
        """During training; must not draw from torch's global generator."""
        ...

    def final_score(self) -> Any:
        """At the end, on fresh seeds: a dataclass that prints as one line."""
        ...

    def save_model(self, run: RunDirectory, /) -> None:
        """Write what can be used without the run."""
        ...

    def log_caveats(self) -> None:
        """Log what a reader of the final scores must know."""
        ...


class Results:
    """results.json and the picture, as far as a run has come."""

    def __init__(self, task: Reportable, run: RunDirectory, computing: dict[str, str]) -> None:
        self.task, self.run, self.computing = task, run, computing

    def write(self, finished: bool, speed: float, **parts: Any) -> None:
        """results.json."""
        self.run.write_results(
            {
                **self.task.description(),
                "finished": finished,
                **parts,
                "updates_per_second": round(speed, 1),
                "device": str(self.task.device),
                **self.computing,
                "machine": machine_name(self.task.device),
                "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                "versions": {name: version(name) for name in PACKAGES},
            }
        )

    def progress(self, evaluations: list[Evaluation], speed: float) -> None:
        """After an evaluation during training."""
        history = [{"step": e.step, **e.scalars} for e in evaluations]
        self.write(False, speed, evaluations=history)
        if evaluations:
            self.task.draw(self.run, evaluations)


class Reporter(Results):
    """Says at the end what came of a run."""

    task: Task

    def __init__(self, task: Task, run: RunDirectory, computing: dict[str, str]) -> None:
        super().__init__(task, run, computing)

    def finish(self, loop: TrainingLoop) -> None:
        """Evaluate the last and the best checkpoint on fresh seeds, and report both, apart."""
        last_score = self.task.final_score()
        best_step = self.load_best(loop)
        best_score = self.task.final_score()
        loop.restore()
        self.report(loop, last_score, best_score, best_step)

    def load_best(self, loop: TrainingLoop) -> int:
        """Give the learner the weights of the best checkpoint; returns its step."""
        best = self.run.load_checkpoint("best")
        loop.learner.load_training_state(best["learner"])
        return int(best["step"])

    def report(self, loop: TrainingLoop, last_score: Any, best_score: Any, best_step: int) -> None:
        """Write and print what came of the run, with the last weights in its learner."""
        evaluations = loop.evaluations
        self.task.save_model(self.run)
        self.write(
            True,
            loop.updates_per_second,
            last={"step": loop.step, **dataclasses.asdict(last_score)},
            best={
                "step": best_step,
                **dataclasses.asdict(best_score),
                "chosen_by": f"highest of {len(evaluations)} evaluations during training, "
                "evaluated again on fresh seeds",
            },
            evaluations=[{"step": e.step, **e.scalars} for e in evaluations],
        )
        picture = self.task.draw(self.run, evaluations)
        log.info("last checkpoint:  %s", last_score)
        log.info("best checkpoint:  %s (step %d)", best_score, best_step)
        self.task.log_caveats()
        print(f"picture: {picture}")
        print(f"run: {self.run.path}")
