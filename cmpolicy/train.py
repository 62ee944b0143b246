"""Train: `python -m cmpolicy.train env=hopper-medium`, or `resume=RUN` to go on.

Toys: `python -m cmpolicy.train --config-name toy toy=three_gmm loss=scd`. Images:
`python -m cmpolicy.train --config-name image data=mnist image_loss=edm`, or the same under
`torchrun --nproc-per-node=N -m cmpolicy.train`.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import OmegaConf

from cmpolicy.config import RLConfig, ToyConfig
from cmpolicy.datasets.toys import Bandit, find_toy
from cmpolicy.errors import InputError
from cmpolicy.front_door import resolve_device, run
from cmpolicy.image_config import ImageConfig
from cmpolicy.resume import AnyConfig, resumed_config
from cmpolicy.run_config import RunConfig
from cmpolicy.tasks.bandit import BanditTask
from cmpolicy.tasks.images import ImageTask
from cmpolicy.tasks.offline_rl import OfflineRL
from cmpolicy.tasks.toys import ToyTask
from cmpolicy.training.acceleration import accelerated, resolve_acceleration
from cmpolicy.training.distribution import Ranks
from cmpolicy.training.loop import (
    Dataset,
    Evaluation,
    GrowingDataset,
    Learner,
    Schedule,
    TrainingLoop,
)
from cmpolicy.training.precision import resolve_precision, use_precision
from cmpolicy.training.run_directory import RunDirectory, SilentRunDirectory

log = logging.getLogger("cmpolicy")
PACKAGES = ("cmpolicy", "torch", "numpy", "gymnasium", "mujoco", "minari")


class Task(Protocol):
    """What a domain puts together: a learner, its data, what measures it, what is written of it."""

    @property
    def learner(self) -> Learner: ...

    @property
    def dataset(self) -> Dataset: ...

    @property
    def device(self) -> torch.device: ...

    def run_name(self) -> str:
        """Task and method, a path below output_dir."""
        ...

    def evaluate(self, step: int, /) -> Evaluation:
        """During training; must not draw from torch's global generator."""
        ...

    def final_score(self) -> Any:
        """At the end, on fresh seeds: a dataclass that prints as one line."""
        ...

    def description(self) -> dict[str, Any]:
        """What a result must say of its data and its method."""
        ...

    def draw(self, run: RunDirectory, evaluations: list[Evaluation], /) -> Path:
        """Write the picture of the run and tell where."""
        ...

    def save_model(self, run: RunDirectory, /) -> None:
        """Write what can be used without the run."""
        ...

    def remark(self) -> None:
        """Log what a reader of the final scores must know."""
        ...


def make_task(config: RunConfig, device: torch.device, ranks: Ranks) -> Task:
    """The task that a configuration describes.

    Raises:
        InputError: if several processes are to train what one trains.
    """
    if isinstance(config, ImageConfig):
        return ImageTask(config, device, ranks)
    if ranks.size > 1:
        raise InputError(
            "torchrun trains images; start this with python -m cmpolicy.train, once a seed"
        )
    if isinstance(config, ToyConfig):
        bandit = isinstance(find_toy(config.toy), Bandit)
        return BanditTask(config, device) if bandit else ToyTask(config, device)
    assert isinstance(config, RLConfig)
    return OfflineRL(config, device)


def train(config: AnyConfig, overrides: list[str]) -> None:
    """One run, from the start or resumed, to its end."""
    resume = config.resume
    if resume is not None:
        config = resumed_config(resume, overrides)
    ranks = Ranks.join(config.device)
    try:
        train_together(config, resume, ranks)
    finally:
        ranks.leave()


def train_together(config: AnyConfig, resume: str | None, ranks: Ranks) -> None:
    """The part of one process, of which there mostly is one."""
    device = resolve_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if not ranks.main:
        log.setLevel(logging.ERROR)
    precision = resolve_precision(config.precision, device, config.AUTO_PRECISION)
    use_precision(precision, device)
    torch.manual_seed(config.seed)
    task = make_task(config, device, ranks)

    acceleration = resolve_acceleration(
        config.accelerate,
        task.learner,
        device,
        config.steps,
        growing=isinstance(task.dataset, GrowingDataset),
    )

    open_run = RunDirectory if ranks.main else SilentRunDirectory
    directory = open_run.existing(resume) if resume else open_run(run_path(config, task))
    reporter = Reporter(task, directory, {"precision": precision, "acceleration": acceleration})
    loop = TrainingLoop(
        task.learner,
        task.dataset,
        task.evaluate,
        directory,
        schedule_of(config),
        on_evaluation=reporter.progress if ranks.main else None,
        advance=accelerated(task.learner, task.dataset, config.batch_size, acceleration, precision),
        progress_bar=config.progress and ranks.main,
        ranks=ranks,
    )
    begin(loop, config, resume)
    log.info("run: %s   device: %s, %s, %s", directory.path, device, precision, acceleration)
    if ranks.main and not resume:
        reporter.progress([], 0.0)
    loop.train()
    if ranks.main:
        reporter.finish(loop)


def begin(loop: TrainingLoop, config: AnyConfig, resume: str | None) -> None:
    """Create the run, or restore it.

    Raises:
        InputError: if it cannot be written, or has gone further than it should.
    """
    config_yaml = OmegaConf.to_yaml(OmegaConf.structured(config))
    if resume is None:
        loop.run.create(config_yaml)
        return
    loop.restore()
    if loop.step > config.updates:
        raise InputError(
            f"{resume} has done {loop.step} updates, more than the {config.updates} of "
            f"steps={config.steps}; give more steps"
        )
    loop.run.write_config(config_yaml)
    log.info("going on from step %d of %d", loop.step, config.updates)


def run_path(config: RunConfig, task: Task) -> Path:
    """`run_dir`, or output_dir/task/method-seed-time."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path(config.output_dir) / f"{task.run_name()}-seed{config.seed}-{now}"


def schedule_of(config: AnyConfig) -> Schedule:
    """The loop's part of the configuration."""
    return Schedule(
        steps=config.updates,
        batch_size=config.batch_size,
        log_every=config.log_every,
        eval_every=config.eval.every,
        checkpoint_every=config.checkpoint_every,
        milestone=config.steps if config.updates > config.steps else None,
    )


class Reporter:
    """Writes results.json and the learning curve, and says at the end what came out."""

    def __init__(self, task: Task, run: RunDirectory, computing: dict[str, str]) -> None:
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
                "machine": f"{platform.machine()}, {torch.get_num_threads()} CPU threads",
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

    def finish(self, loop: TrainingLoop) -> None:
        """Evaluate the last and the best checkpoint on fresh seeds, and report both, apart."""
        evaluations = loop.evaluations
        last_score = self.task.final_score()
        best = self.run.load_checkpoint("best")
        loop.learner.load_training_state(best["learner"])
        best_score = self.task.final_score()
        loop.restore()
        self.task.save_model(self.run)
        self.write(
            True,
            loop.updates_per_second,
            last={"step": loop.step, **dataclasses.asdict(last_score)},
            best={
                "step": best["step"],
                **dataclasses.asdict(best_score),
                "chosen_by": f"highest of {len(evaluations)} evaluations during training, "
                "evaluated again on fresh seeds",
            },
            evaluations=[{"step": e.step, **e.scalars} for e in evaluations],
        )
        picture = self.task.draw(self.run, evaluations)
        log.info("last checkpoint:  %s", last_score)
        log.info("best checkpoint:  %s (step %d)", best_score, best["step"])
        self.task.remark()
        print(f"picture: {picture}")
        print(f"run: {self.run.path}")


def main() -> None:
    """The command."""
    run(train, "rl")


if __name__ == "__main__":
    main()
