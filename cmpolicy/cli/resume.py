"""The configuration of a run that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cmpolicy.cli.run_config import RunConfig
from cmpolicy.errors import InputError
from cmpolicy.training.run_directory import RunDirectory

C = TypeVar("C", bound=RunConfig)

CHANGEABLE = (
    "steps",
    "online.steps",
    "online.return_temperature",
    "agent.eta",  # an environment bears a stronger guidance than data does
    "eval.every",
    "eval.episodes",
    "eval.final_episodes",
    "eval.samples",
    "eval.final_samples",
    "accumulate",
    "data.root",
    "log_every",
    "checkpoint_every",
    "device",
    "precision",
    "accelerate",
    "threads",
    "progress",
)


def load_config(run: RunDirectory, *kinds: type[C]) -> C | None:
    """The configuration that a run was started with, or None if it is of none of the kinds.

    Raises:
        InputError: if it does not read.
    """
    try:
        stored = OmegaConf.load(run.config_path)
        kind = next((kind for kind in kinds if kind.OWN_KEY in stored), None)
        if kind is None:
            return None
        schema = kind.schema_of(stored)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), stored))
    except (OmegaConfBaseException, yaml.YAMLError, KeyError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{run.config_path} is damaged or from another version: {reason}"
        ) from error
    assert isinstance(config, kind)
    return config


def resumed_config(path: str | Path, overrides: list[str], *kinds: type[C]) -> C:
    """The configuration of the run at `path`, with what a resumed run may change.

    Args:
        overrides: the command line, as ``key=value``.
        kinds: of runs, one of which it is.

    Raises:
        InputError: for a key that would make it another run, such as `agent` or `seed`.
    """
    run = RunDirectory.existing(path)
    changes: dict[str, Any] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "resume":
            continue
        if key not in CHANGEABLE:
            raise InputError(
                f"{key} cannot change in a run that has begun; what can: {', '.join(CHANGEABLE)}"
            )
        changes[key] = yaml.safe_load(value)
    stored = load_config(run, *kinds)
    if stored is None:
        keys = ", ".join(kind.OWN_KEY for kind in kinds)
        raise InputError(
            f"{run.config_path} is damaged or from another version: it has none of the keys {keys}"
        )
    config = OmegaConf.structured(stored)
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    resumed = OmegaConf.to_object(config)
    assert isinstance(resumed, type(stored))
    return resumed
