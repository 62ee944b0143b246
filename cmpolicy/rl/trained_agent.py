"""The agent of a finished run, and what the run's files say of it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from cmpolicy.agents import Agent, Spaces
from cmpolicy.cli.resume import load_config
from cmpolicy.errors import InputError
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.task import build_agent
from cmpolicy.training.run_directory import RunDirectory


class RunRecord(NamedTuple):
    """What a run says of itself; `env` is None if it was trained without an environment."""

    env: Environment | None
    references: tuple[float, float] | None
    spaces: Spaces
    comparable: bool

    def environment(self, env_id: str | None = None) -> Environment:
        """Give the environment of the run, or `env_id`, by which the user also trusts its module.

        Raises:
            InputError: neither is known.
        """
        if env_id is not None:
            recorded = self.env or Environment(env_id)
            return replace(recorded, id=env_id, from_data=False).probed()[0]
        if self.env is None:
            raise InputError("the run was trained without an environment; give env.id=ID")
        return self.env


def read_record(directory: RunDirectory) -> RunRecord:
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
        described = dict(results["environment"] or {})
        references = described.pop("reference_returns", None)
        if described and not isinstance(described["id"], str):
            raise TypeError(f"environment.id is {described['id']!r}")
        return RunRecord(
            Environment(**{**described, "from_data": True}) if described else None,
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
    stored = load_config(directory, RLConfig)
    if stored is None:
        raise InputError(f"{directory.path} is a toy run; its scores stand in results.json")
    agent = build_agent(stored, spaces).to(device)
    state = directory.load_checkpoint(checkpoint, str(device))
    agent.load_training_state(state["learner"])
    return agent, state["step"]
