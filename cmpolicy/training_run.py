"""A training run: task, loop and run directory from a configuration."""

from __future__ import annotations

import datetime
import logging
import math
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf

from cmpolicy.acceleration.mode import accelerated, resolve_acceleration
from cmpolicy.acceleration.precision import resolve_precision, use_precision
from cmpolicy.acceleration.stacked_seeds_loop import StackedSeedsLoop
from cmpolicy.cli.command import resolve_device
from cmpolicy.cli.resume import imports_module, load_config, resumed_config
from cmpolicy.cli.sweep import announce_run, run_settings
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError, override
from cmpolicy.images.config import ImageConfig
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.seeds import OfflineRLSeeds
from cmpolicy.rl.seeds_report import SeedsReporter
from cmpolicy.rl.task import OfflineRL
from cmpolicy.toys.config import ToyConfig
from cmpolicy.training.distributed import Ranks
from cmpolicy.training.interruption import Interrupted, StopSignal
from cmpolicy.training.loggers import check_installed
from cmpolicy.training.loop import Schedule, TrainingLoop
from cmpolicy.training.protocols import GrowingDataset
from cmpolicy.training.random_state import RandomState
from cmpolicy.training.report import Reporter, Task
from cmpolicy.training.run_directory import RunDirectory, SilentRunDirectory

log = logging.getLogger("cmpolicy")
AnyConfig = RLConfig | ToyConfig | ImageConfig
RUN_CONFIGS: tuple[type[AnyConfig], ...] = (RLConfig, ToyConfig, ImageConfig)
PATHS = ("dataset.path", "data.root", "teacher")  # keys of what a run reads


def make_task(
    config: AnyConfig, device: torch.device, ranks: Ranks, data: TransitionDataset | None = None
) -> Task | OfflineRLSeeds:
    """Make the task that a configuration describes; `data` are those of Python.

    Raises:
        InputError: if several processes are to train what one trains.
    """
    if isinstance(config, ImageConfig):
        from cmpolicy.images.task import ImageTask

        return ImageTask(config, device, ranks)
    if ranks.size > 1:
        raise InputError(
            "torchrun trains images; start this with python -m cmpolicy.train, once a seed"
        )
    if isinstance(config, ToyConfig):
        from cmpolicy.toys.task import make_toy_task

        return make_toy_task(config, device)
    kind = OfflineRL if config.seeds is None else OfflineRLSeeds
    return kind(config, device, data)


class Trained(NamedTuple):
    """What a training run has left."""

    path: Path  # of the run directory
    score: float  # the last one; NaN in processes that help another


def train(
    config: AnyConfig, overrides: list[str], data: TransitionDataset | None = None
) -> Trained:
    """Train one run, from the start or resumed, to its end.

    Args:
        overrides: the command line of a resumed run, as ``key=value``.
        data: to train on in place of what the configuration names.
    """
    resume = config.resume
    if resume is not None:
        config = resumed_config(resume, overrides, *RUN_CONFIGS)
    make_paths_absolute(config)
    ranks = Ranks.join(config.device)
    try:
        with ExitStack() as locks:
            return train_as(ranks, locks, config, resume, data)
    finally:
        ranks.leave()


def train_as(
    ranks: Ranks,
    locks: ExitStack,
    config: AnyConfig,
    resume: str | None,
    data: TransitionDataset | None,
) -> Trained:
    """Train in this process, the only one unless torchrun started several.

    Args:
        locks: of directories, released at its end.
    """
    device = resolve_device(config.device)
    check_installed(config.logger)
    directory = resumed_directory(resume, ranks, locks) if resume is not None else None
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if not ranks.main:
        log.setLevel(logging.ERROR)
    precision = resolve_precision(config.precision, device, config.AUTO_PRECISION)
    use_precision(precision, device)
    torch.manual_seed(config.seed)
    task = make_task(config, device, ranks, data)
    pictures = getattr(task.dataset, "frames", None) is not None  # they may be in a file
    growing = pictures or isinstance(task.dataset, GrowingDataset)
    acceleration = resolve_acceleration(
        config.accelerate, task.learner, device, config.steps, growing=growing
    )

    if directory is None:
        directory = new_directory(config, run_path(config, task), ranks, locks)
    elif begins_online(directory, config):
        directory = branched_directory(directory, config, locks)
    directory.loggers = config.logger
    announce_run(directory.path)
    computing = {"precision": precision, "acceleration": acceleration}
    loop, reporter = (
        seeds_loop(task, directory, computing)
        if isinstance(task, OfflineRLSeeds)
        else single_loop(task, config, directory, computing, ranks)
    )
    loop.advance = accelerated(
        task.learner, task.dataset, config.batch_size, acceleration, precision
    )
    if resume is not None:
        restore(loop, config)
    write_configs_of_seeds(loop, config)
    if isinstance(config, RLConfig) and imports_module(config.env.id):
        directory.resume_arguments = (override("env.id", config.env.id),)
    log.info("run: %s   device: %s, %s, %s", directory.path, device, precision, acceleration)
    score = math.nan
    try:
        if ranks.main and not resume:
            reporter.progress([], 0.0)
        loop.train()
        if ranks.main:
            score = reporter.finish(loop)
    except StopSignal as stop:
        message = f"{stop}; to go on: {directory.resume_command}"
        raise Interrupted(stop.signum, message) from None
    return Trained(directory.path, score)


def new_directory(
    config: AnyConfig, automatic: Path, ranks: Ranks, locks: ExitStack
) -> RunDirectory:
    """Create and lock the directory of a run that begins, `automatic` if the user names none.

    Raises:
        InputError: if it cannot be written, or holds a run already.
    """
    kind = RunDirectory if ranks.main else SilentRunDirectory
    directory = kind(config.run_dir or automatic)
    locks.callback(directory.unlock)
    directory.create(yaml_of(config), rename=config.run_dir is None)
    return directory


def resumed_directory(path: str, ranks: Ranks, locks: ExitStack) -> RunDirectory:
    """Open and lock the directory of a run that goes on.

    Raises:
        InputError: if another process is training it.
    """
    directory = (RunDirectory if ranks.main else SilentRunDirectory)(path)
    locks.callback(directory.unlock)
    directory.lock()
    return directory


def begins_online(directory: RunDirectory, config: AnyConfig) -> bool:
    """Whether a run on data alone is to go on in the environment."""
    stored = load_config(directory, *RUN_CONFIGS)
    offline = isinstance(stored, RLConfig) and not stored.online.steps
    return offline and isinstance(config, RLConfig) and config.online.steps > 0


def branched_directory(offline: RunDirectory, config: AnyConfig, locks: ExitStack) -> RunDirectory:
    """Create a directory for the part online, which begins with the state of another run."""
    directory = RunDirectory(offline.path.with_name(f"{offline.path.name}-online"))
    locks.callback(directory.unlock)
    directory.create(yaml_of(config), rename=True)
    directory.copy_state(offline)
    offline.unlock()
    log.info("online in %s; %s stays as it is", directory.path, offline.path)
    return directory


def single_loop(
    task: Task,
    config: AnyConfig,
    directory: RunDirectory,
    computing: dict[str, str],
    ranks: Ranks,
    random_state: RandomState | None = None,
) -> tuple[TrainingLoop, Reporter]:
    """Make the loop of a task, and what reports on it."""
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
    """Make the loop of several seeds; the run of each is below the run directory."""
    config = task.config
    runs = [directory.below(f"seed-{seed}") for seed in task.seeds]
    for run in runs:
        run.loggers = config.logger
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


def restore(loop: TrainingLoop, config: AnyConfig) -> None:
    """Go on from the last checkpoint, with the configuration as it is now.

    Raises:
        InputError: if the run has gone further than it should.
    """
    loop.restore()
    if loop.step > config.updates:
        raise InputError(
            f"{loop.run.path} has done {loop.step} updates, more than the {config.updates} of "
            f"steps={config.steps}; give more steps"
        )
    loop.run.write_config(yaml_of(config))
    log.info("going on from step %d of %d", loop.step, config.updates)


def write_configs_of_seeds(loop: TrainingLoop, config: AnyConfig) -> None:
    """Write the configuration with which each of several seeds can go on alone."""
    if isinstance(loop, StackedSeedsLoop) and isinstance(config, RLConfig):
        for part, alone in zip(loop.seeds, config.each_seed(), strict=True):
            part.run.write_config(yaml_of(replace(alone, run_dir=str(part.run.path))))


def yaml_of(config: AnyConfig) -> str:
    """The content of config.yaml."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def make_paths_absolute(config: AnyConfig) -> None:
    """Make PATHS that exist absolute: the run can then be resumed from any directory."""
    for key in PATHS:
        parent, _, name = key.rpartition(".")
        node: Any = getattr(config, parent, None) if parent else config
        value = getattr(node, name, None)
        if value is not None and Path(value).exists():
            setattr(node, name, str(Path(value).absolute()))


def run_path(config: AnyConfig, task: Task | OfflineRLSeeds) -> Path:
    """output_dir/task/method-seed-time, or method-5seeds-time; in a sweep with what varies."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    seed = f"{len(task.seeds)}seeds" if isinstance(task, OfflineRLSeeds) else f"seed{config.seed}"
    return Path(config.output_dir) / f"{task.run_name()}{run_settings()}-{seed}-{now}"


def schedule_of(config: AnyConfig) -> Schedule:
    """The loop's part of the configuration."""
    return Schedule(
        steps=config.updates,
        batch_size=config.batch_size,
        log_every=config.log_every,
        eval_every=config.eval.every,
        checkpoint_every=config.checkpoint_every,
        milestone=config.steps if config.updates > config.steps else None,
        tolerated_failures=getattr(config.eval, "tolerated_failures", 0),
    )
