"""Evaluate a run again: `python -m cmpolicy.evaluate run=RUN episodes=50 best_of=10 video=true`.

Images: `run=RUN num_samples=50000 extractor=inception`, or pictures: `npz=FILE data.name=NAME`.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from dataclasses import dataclass, field

import torch
from hydra.core.config_store import ConfigStore

from cmpolicy.cli.command import resolve_device, run
from cmpolicy.cli.resume import load_config
from cmpolicy.cli.run_config import check_positive
from cmpolicy.errors import InputError
from cmpolicy.images.config import ImageConfig, ImageMetricsConfig
from cmpolicy.images.evaluation import evaluate_image_run, evaluate_npz
from cmpolicy.rl.score import evaluate_agent
from cmpolicy.rl.task import act_with
from cmpolicy.rl.trained_agent import load_agent, read_record
from cmpolicy.rl.video import write_video
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
    device = resolve_device(config.device)
    if config.npz is not None:
        evaluate_npz(config, device)
        return
    if config.run is None:
        raise InputError("run is missing; give run=RUN, or npz=FILE for pictures at hand")
    directory = RunDirectory.existing(config.run)
    if load_config(directory, ImageConfig) is not None:
        evaluate_image_run(config, directory, device)
        return
    evaluate_agent_run(config, directory, device)


def evaluate_agent_run(
    config: EvaluateConfig, directory: RunDirectory, device: torch.device
) -> None:
    """Roll out a checkpoint of an agent."""
    recorded = read_record(directory)
    agent, step = load_agent(directory, recorded.spaces, config.checkpoint, device)
    bind = act_with(agent, config.best_of, config.mode_of, config.steps)
    candidates = config.best_of or agent.candidates
    env, references = recorded.environment(config.env.id), recorded.references
    window = agent.policy.window
    score = evaluate_agent(bind, env, references, config.episodes, config.seed, device, window)
    row = {
        "checkpoint": config.checkpoint,
        "step": step,
        "environment": env.id,
        "seed": config.seed,
        "network_calls": config.steps or len(agent.policy.levels),
        "best_of": candidates,
        "mode_of": 1 if candidates > 1 else config.mode_of or agent.config.mode_of,
        **dataclasses.asdict(score),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    directory.append_evaluation(row)
    print(f"{config.checkpoint} checkpoint (step {step}) on {env.id}: {score}")
    if not recorded.comparable:
        log.warning("scores on this data are NOT comparable with published ones.")
    if config.video:
        generator = torch.Generator(device=device).manual_seed(config.seed)
        path = directory.path / f"video-{config.checkpoint}.mp4"
        print(f"video: {write_video(bind(generator), env, path, config.seed, window)}")


def main() -> None:
    """The command."""
    run(evaluate, "evaluate")


if __name__ == "__main__":
    main()
