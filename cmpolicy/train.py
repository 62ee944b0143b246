"""Train: `python -m cmpolicy.train env=hopper-medium`, or `resume=RUN` to go on."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from cmpolicy.config import RLConfig
from cmpolicy.front_door import resolve_device, run
from cmpolicy.offline_rl import OfflineRL
from cmpolicy.resume import resumed_config
from cmpolicy.training.loop import Evaluation, Schedule, TrainingLoop
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")
PACKAGES = ("cmpolicy", "torch", "numpy", "gymnasium", "mujoco", "minari")


def train(config: RLConfig, overrides: list[str]) -> None:
    """One run, from the start or resumed, to its end."""
    resume = config.resume
    if resume is not None:
        config = resumed_config(resume, overrides)
    device = resolve_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    task = OfflineRL(config, device)

    directory = RunDirectory.existing(resume) if resume else RunDirectory(run_path(config))
    reporter = Reporter(task, directory)
    loop = TrainingLoop(
        task.learner,
        task.dataset,
        task.evaluate,
        directory,
        schedule_of(config),
        on_evaluation=reporter.progress,
        progress_bar=config.progress,
    )
    if resume:
        loop.restore()
        log.info("going on from step %d of %d", loop.step, config.steps)
    else:
        directory.create(OmegaConf.to_yaml(OmegaConf.structured(config)))
        reporter.progress([], 0.0)
    log.info("run: %s   device: %s", directory.path, device)
    loop.train()
    reporter.finish(loop)


def run_path(config: RLConfig) -> Path:
    """`run_dir`, or output_dir/task/agent-seed-time."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = f"{config.agent.name}-seed{config.seed}-{now}"
    return Path(config.output_dir) / config.env.name / name


def schedule_of(config: RLConfig) -> Schedule:
    """The loop's part of the configuration."""
    return Schedule(
        steps=config.steps,
        batch_size=config.batch_size,
        log_every=config.log_every,
        eval_every=config.eval.every,
        checkpoint_every=config.checkpoint_every,
    )


class Reporter:
    """Writes results.json and the learning curve, and says at the end what came out."""

    def __init__(self, task: OfflineRL, run: RunDirectory) -> None:
        self.task, self.run = task, run

    def write(self, finished: bool, speed: float, **parts: Any) -> None:
        """results.json."""
        self.run.write_results(
            {
                **self.task.description(),
                "finished": finished,
                **parts,
                "updates_per_second": round(speed, 1),
                "device": str(self.task.device),
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
        best = max(evaluations, key=lambda e: e.score)
        last_score = self.task.final_score()
        loop.learner.load_training_state(self.run.load_checkpoint("best")["learner"])
        best_score = self.task.final_score()
        loop.restore()
        self.task.learner.average_policy.save(self.run.path / "policy.safetensors")
        self.write(
            True,
            loop.updates_per_second,
            last={"step": loop.step, **dataclasses.asdict(last_score)},
            best={
                "step": best.step,
                **dataclasses.asdict(best_score),
                "chosen_by": f"highest of {len(evaluations)} evaluations during training, "
                "evaluated again on fresh seeds",
            },
            evaluations=[{"step": e.step, **e.scalars} for e in evaluations],
        )
        self.task.draw(self.run, evaluations)
        log.info("last checkpoint:  %s", last_score)
        log.info("best checkpoint:  %s (step %d)", best_score, best.step)
        log.info("mean of the data: %.1f", self.task.data_score())
        if not self.task.info.comparable:
            log.warning("WARNING: these scores are NOT comparable with published ones.")
        print(f"learning curve: {self.run.path / 'learning_curve.png'}")
        print(f"run: {self.run.path}")


def main() -> None:
    """The command."""
    run(train, "rl")


if __name__ == "__main__":
    main()
