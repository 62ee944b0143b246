"""Train: `python -m cmpolicy.train env=hopper-medium`, or `resume=RUN` to go on.

Several seeds at once: `python -m cmpolicy.train env=hopper-medium seeds=5`, or `seeds=[0,3,7]`.
Toys: `python -m cmpolicy.train --config-name toy toy=three_gmm loss=scd`. Images:
`python -m cmpolicy.train --config-name image data=mnist image_loss=edm`, or the same under
`torchrun --nproc-per-node=N -m cmpolicy.train`.
"""

from __future__ import annotations

import datetime
import logging
from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import OmegaConf

from cmpolicy.acceleration.mode import accelerated, resolve_acceleration
from cmpolicy.acceleration.precision import resolve_precision, use_precision
from cmpolicy.acceleration.stacked_seeds_loop import StackedSeedsLoop
from cmpolicy.cli.command import resolve_device, run
from cmpolicy.cli.resume import resumed_config
from cmpolicy.errors import InputError
from cmpolicy.images.config import ImageConfig
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.seeds import OfflineRLSeeds
from cmpolicy.rl.seeds_report import SeedsReporter
from cmpolicy.rl.task import OfflineRL
from cmpolicy.toys.config import ToyConfig
from cmpolicy.training.distributed import Ranks
from cmpolicy.training.loop import GrowingDataset, Schedule, TrainingLoop
from cmpolicy.training.random_state import RandomState
from cmpolicy.training.report import Reporter, Task
from cmpolicy.training.run_directory import RunDirectory, SilentRunDirectory

log = logging.getLogger("cmpolicy")
AnyConfig = RLConfig | ToyConfig | ImageConfig
RUN_CONFIGS: tuple[type[AnyConfig], ...] = (RLConfig, ToyConfig, ImageConfig)


def make_task(config: AnyConfig, device: torch.device, ranks: Ranks) -> Task | OfflineRLSeeds:
    """The task that a configuration describes.

    Raises:
        InputError: if several processes are to train what one trains.
    """
    if isinstance(config, ImageConfig):
        from cmpolicy.images.task import ImageTask  # with optional packages, and slow

        return ImageTask(config, device, ranks)
    if ranks.size > 1:
        raise InputError(
            "torchrun trains images; start this with python -m cmpolicy.train, once a seed"
        )
    if isinstance(config, ToyConfig):
        from cmpolicy.toys.task import make_toy_task  # likewise

        return make_toy_task(config, device)
    return OfflineRL(config, device) if config.seeds is None else OfflineRLSeeds(config, device)


def train(config: AnyConfig, overrides: list[str]) -> None:
    """One run, from the start or resumed, to its end."""
    resume = config.resume
    if resume is not None:
        config = resumed_config(resume, overrides, *RUN_CONFIGS)
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
    computing = {"precision": precision, "acceleration": acceleration}
    loop, reporter = (
        seeds_loop(task, directory, computing)
        if isinstance(task, OfflineRLSeeds)
        else single_loop(task, config, directory, computing, ranks)
    )
    loop.advance = accelerated(
        task.learner, task.dataset, config.batch_size, acceleration, precision
    )
    begin(loop, config, resume)
    log.info("run: %s   device: %s, %s, %s", directory.path, device, precision, acceleration)
    if ranks.main and not resume:
        reporter.progress([], 0.0)
    loop.train()
    if ranks.main:
        reporter.finish(loop)


def single_loop(
    task: Task,
    config: AnyConfig,
    directory: RunDirectory,
    computing: dict[str, str],
    ranks: Ranks,
    random_state: RandomState | None = None,
) -> tuple[TrainingLoop, Reporter]:
    """The loop of a task, and what reports on it."""
    reporter = Reporter(task, directory, computing)
    loop = TrainingLoop(
        task.learner,
        task.dataset,
        task.evaluate,
        directory,
        schedule_of(config),
        on_evaluation=reporter.progress if ranks.main else None,
        progress_bar=config.progress and ranks.main,
        ranks=ranks,
        random_state=random_state,
    )
    return loop, reporter


def seeds_loop(
    task: OfflineRLSeeds, directory: RunDirectory, computing: dict[str, str]
) -> tuple[StackedSeedsLoop, SeedsReporter]:
    """The loop of several seeds around those of each, whose runs are below the run directory."""
    config = task.config
    runs = [RunDirectory(directory.path / f"seed-{seed}") for seed in task.seeds]
    parts = [
        single_loop(one, config, run, computing, Ranks(), state)
        for run, one, state in zip(runs, task.tasks, task.random_states, strict=True)
    ]
    reporter = SeedsReporter(task, directory, computing, parts)
    loop = StackedSeedsLoop(
        task.learner,
        task.dataset,
        task.evaluate,
        [part for part, _ in parts],
        directory,
        schedule_of(config),
        on_evaluation=reporter.progress,
        progress_bar=config.progress,
    )
    return loop, reporter


def begin(loop: TrainingLoop, config: AnyConfig, resume: str | None) -> None:
    """Create the run, or restore it.

    Raises:
        InputError: if it cannot be written, or has gone further than it should.
    """
    if resume is None:
        loop.run.create(yaml_of(config))
    else:
        loop.restore()
        if loop.step > config.updates:
            raise InputError(
                f"{resume} has done {loop.step} updates, more than the {config.updates} of "
                f"steps={config.steps}; give more steps"
            )
        loop.run.write_config(yaml_of(config))
        log.info("going on from step %d of %d", loop.step, config.updates)
    if isinstance(loop, StackedSeedsLoop):
        assert isinstance(config, RLConfig)
        for part, alone in zip(loop.seeds, config.each_seed(), strict=True):
            part.run.write_config(yaml_of(replace(alone, run_dir=str(part.run.path))))


def yaml_of(config: AnyConfig) -> str:
    """What config.yaml holds."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def run_path(config: AnyConfig, task: Task | OfflineRLSeeds) -> Path:
    """`run_dir`, or output_dir/task/method-seed-time; method-5seeds-time for five."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    seed = f"{len(task.seeds)}seeds" if isinstance(task, OfflineRLSeeds) else f"seed{config.seed}"
    return Path(config.output_dir) / f"{task.run_name()}-{seed}-{now}"


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


def main() -> None:
    """The command."""
    run(train, "rl")


if __name__ == "__main__":
    main()
