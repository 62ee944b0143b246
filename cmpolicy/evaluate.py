"""Evaluate a run again: `python -m cmpolicy.evaluate run=RUN episodes=50 best_of=10 video=true`.

Images: `run=RUN num_samples=50000 extractor=inception`, or pictures: `npz=FILE data.name=NAME`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore

from cmpolicy.cli.command import resolve_device, run
from cmpolicy.cli.resume import load_config
from cmpolicy.cli.run_config import check_positive
from cmpolicy.errors import InputError
from cmpolicy.images.config import ImageConfig, ImageMetricsConfig
from cmpolicy.images.evaluation import evaluate_image_run, evaluate_npz
from cmpolicy.run import Run
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")


@dataclass
class EvaluationEnv:
    """Environment of the evaluation.

    Attributes:
        id: null for that of the run; to be repeated where it names a module, `module:Id`, because
            the files of a run do not choose what is imported.
    """

    id: str | None = None


@dataclass
class EvaluateConfig(ImageMetricsConfig):
    """`python -m cmpolicy.evaluate run=RUN`, or `npz=FILE data.name=NAME` for pictures at hand.

    Attributes:
        episodes: how many.
        best_of: actions drawn an observation, of which the critic picks the best; null for the
            agent's own way.
        mode_of: actions drawn an observation, of which the mode is taken, 1 for a plain sample;
            null for the agent's own.
        video: write the first episode as video.mp4.
        env: see `EvaluationEnv`.
    """

    episodes: int = 20
    best_of: int | None = None
    mode_of: int | None = None
    video: bool = False
    env: EvaluationEnv = field(default_factory=EvaluationEnv)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("best_of", "mode_of") if getattr(self, name) is not None]
        check_positive(self, "episodes", *given)


ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)


def evaluate(config: EvaluateConfig, overrides: list[str]) -> None:
    """Roll out an agent, or compare images; print the outcome, add it to evaluations.jsonl."""
    if config.npz is not None:
        evaluate_npz(config, resolve_device(config.device))
        return
    if config.run is None:
        raise InputError("run is missing; give run=RUN, or npz=FILE for pictures at hand")
    directory = RunDirectory.existing(config.run)
    if load_config(directory, ImageConfig) is not None:
        evaluate_image_run(config, directory, resolve_device(config.device))
        return
    evaluate_agent_run(config)


def evaluate_agent_run(config: EvaluateConfig) -> None:
    """Roll out a checkpoint of an agent."""
    assert config.run is not None
    trained = Run(config.run, config.checkpoint, config.device)
    options = {"best_of": config.best_of, "mode_of": config.mode_of, "steps": config.steps}
    score = trained.evaluate(config.episodes, config.seed, env=config.env.id, **options)
    env_id = trained.record.environment(config.env.id).id
    print(f"{config.checkpoint} checkpoint (step {trained.loaded[1]}) on {env_id}: {score}")
    if not trained.record.comparable:
        log.warning("scores on this data are NOT comparable with published ones.")
    if config.video:
        print(f"video: {trained.video(config.seed, env=config.env.id, **options)}")


def main() -> None:
    """The command."""
    run(evaluate, "evaluate")


if __name__ == "__main__":
    main()
