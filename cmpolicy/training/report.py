"""What a task provides to a training run, and the results that are written."""

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
    """What is trained, and its description in results."""

    @property
    def learner(self) -> Learner: ...

    @property
    def dataset(self) -> Dataset: ...

    @property
    def device(self) -> torch.device: ...

    def run_name(self) -> str:
        """Name task and method, as a path below output_dir."""
        ...

    def description(self) -> dict[str, Any]:
        """Describe data and method for results.json."""
        ...

    def draw(self, run: RunDirectory, evaluations: list[Evaluation], /) -> Path:
        """Write the picture of the run; return its path."""
        ...


class Task(Reportable, Protocol):
    """A learner with its data, evaluation and results, as each domain provides it."""

    def evaluate(self, step: int, /) -> Evaluation:
        """Evaluate during training."""
        ...

    def final_score(self) -> Any:
        """Evaluate at the end, on other seeds: a dataclass that prints as one line."""
        ...

    def save_model(self, run: RunDirectory, step: int, /) -> None:
        """Write the model, as it is after `step` updates, for use without the run."""
        ...

    def log_caveats(self) -> None:
        """Log what limits the use of the final scores."""
        ...


class Results:
    """Writes results.json and the picture of a run so far."""

    def __init__(self, task: Reportable, run: RunDirectory, computing: dict[str, str]) -> None:
        self.task, self.run, self.computing = task, run, computing

    def write(self, finished: bool, speed: float, **parts: Any) -> None:
        """Write results.json."""
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
        """Write both after an evaluation during training, or before the first."""
        history = [{"step": e.step, **e.scalars} for e in evaluations]
        self.write(False, speed, evaluations=history)
        if evaluations:
            self.task.draw(self.run, evaluations)


class Reporter(Results):
    """Reports the outcome of a run."""

    task: Task

    def __init__(self, task: Task, run: RunDirectory, computing: dict[str, str]) -> None:
        super().__init__(task, run, computing)

    def progress(self, evaluations: list[Evaluation], speed: float) -> None:
        """After an evaluation, with the model that was evaluated; or before the first."""
        super().progress(evaluations, speed)
        if evaluations:
            self.task.save_model(self.run, evaluations[-1].step)

    def finish(self, loop: TrainingLoop) -> None:
        """Evaluate the last and the best checkpoint on other seeds, and report both."""
        last_score = self.task.final_score()
        best_step = self.load_best(loop)
        best_score = self.task.final_score()
        loop.restore()
        self.report(loop, last_score, best_score, best_step)

    def load_best(self, loop: TrainingLoop) -> int:
        """Load the best checkpoint into the learner; return its step."""
        best = self.run.load_checkpoint("best")
        loop.learner.load_training_state(best["learner"])
        return int(best["step"])

    def report(self, loop: TrainingLoop, last_score: Any, best_score: Any, best_step: int) -> None:
        """Write and print the outcome; the learner has the last weights again."""
        evaluations = loop.evaluations
        self.task.save_model(self.run, loop.step)
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
