"""The agent of a finished run, and what the run's files say of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

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
        record = RunRecord(
            Environment(**{**described, "from_data": True}) if described else None,
            (references[0], references[1]) if references else None,
            Spaces(**results["spaces"]),
            results["dataset"]["comparable"],
        )
        check_record(record)
        return record
    except (KeyError, TypeError, IndexError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{directory.results_path} does not describe an agent's run ({reason}); toys are "
            "scored where they are trained"
        ) from error


def check_record(record: RunRecord) -> None:
    """Raise TypeError for what is not of the kind that a run writes."""

    def numbers(values: Any, at_least: float = -math.inf) -> bool:
        return isinstance(values, list | tuple) and all(
            type(x) in (int, float) and math.isfinite(x) and x >= at_least for x in values
        )

    spaces, env = record.spaces, record.env
    right = {
        "spaces.obs_dim": type(spaces.obs_dim) is int and spaces.obs_dim > 0,
        "spaces.action_low": numbers(spaces.action_low),
        "spaces.action_high": numbers(spaces.action_high),
        "reference_returns": record.references is None or numbers(record.references),
    }
    if env is not None:
        named = [isinstance(w, dict) and isinstance(w.get("name"), str) for w in env.wrappers]
        limits = [x for x in (env.max_episode_steps, env.parallel) if x is not None]
        right |= {
            "environment.kwargs": isinstance(env.kwargs, dict),
            "environment.wrappers": all(named),
            "environment.observation_keys": all(
                isinstance(k, str) for k in env.observation_keys or ()
            ),
            "a limit of environment": numbers(limits, 1) and all(type(x) is int for x in limits),
            "environment.timeout": env.timeout is None or numbers([env.timeout], 1e-9),
        }
    for name, is_right in right.items():
        if not is_right:
            raise TypeError(f"{name} is of a wrong kind")


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
