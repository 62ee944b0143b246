"""Evaluate a run again: `python -m cmpolicy.evaluate run=RUN episodes=50 best_of=10 video=true`.

Images: `run=RUN num_samples=50000 extractor=inception`, or pictures: `npz=FILE data.name=NAME`.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from typing import NamedTuple

import torch

from cmpolicy.agents import Agent, Spaces
from cmpolicy.config import EvaluateConfig, RLConfig
from cmpolicy.errors import InputError
from cmpolicy.evaluation.environments import Environment
from cmpolicy.evaluation.score import evaluate_agent
from cmpolicy.evaluation.video import write_video
from cmpolicy.front_door import resolve_device, run
from cmpolicy.image_config import ImageConfig
from cmpolicy.resume import load_config
from cmpolicy.tasks.image_evaluation import evaluate_image_run, evaluate_npz
from cmpolicy.tasks.offline_rl import act_with, build_agent
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")


class Recorded(NamedTuple):
    """What a run says of itself."""

    env: Environment
    references: tuple[float, float] | None
    spaces: Spaces
    comparable: bool


def evaluate(config: EvaluateConfig, overrides: list[str]) -> None:
    """Roll out an agent, or compare images; print the outcome, add it to evaluations.jsonl."""
    device = resolve_device(config.device)
    if config.npz is not None:
        evaluate_npz(config, device)
        return
    if config.run is None:
        raise InputError("run is missing; give run=RUN, or npz=FILE for pictures at hand")
    directory = RunDirectory.existing(config.run)
    if isinstance(load_config(directory), ImageConfig):
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
    env, references = recorded.env, recorded.references
    score = evaluate_agent(bind, env, references, config.episodes, config.seed, device)
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
        print(f"video: {write_video(bind(generator), env, path, config.seed)}")


def read_record(directory: RunDirectory) -> Recorded:
    """What results.json says of the environment and the data.

    Raises:
        InputError: if it is missing, damaged, or not of an agent's run.
    """
    results = directory.read_results()
    if "seeds" in results:
        runs = ", ".join(f"seed-{seed}" for seed in results["seeds"])
        raise InputError(
            f"{directory.path} holds a run for each seed; give run={directory.path}/ and one of "
            f"{runs}"
        )
    try:
        described = dict(results["environment"])
        references = described.pop("reference_returns")
        return Recorded(
            Environment(**described),
            (references[0], references[1]) if references else None,
            Spaces(**results["spaces"]),
            results["dataset"]["comparable"],
        )
    except (KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{directory.results_path} does not describe an agent's run ({reason}); toys are "
            "scored where they are trained"
        ) from error


def load_agent(
    directory: RunDirectory, spaces: Spaces, checkpoint: str, device: torch.device
) -> tuple[Agent, int]:
    """The agent of a checkpoint, and the number of updates behind it.

    Raises:
        InputError: if the checkpoint is missing, damaged or another agent's.
    """
    stored = load_config(directory)
    if not isinstance(stored, RLConfig):
        raise InputError(f"{directory.path} is a toy run; its scores stand in results.json")
    agent = build_agent(stored, spaces).to(device)
    state = directory.load_checkpoint(checkpoint, str(device))
    agent.load_training_state(state["learner"])
    return agent, state["step"]


def main() -> None:
    """The command."""
    run(evaluate, "evaluate")


if __name__ == "__main__":
    main()
