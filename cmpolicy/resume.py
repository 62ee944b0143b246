"""The configuration of a run that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cmpolicy.agents import AGENTS
from cmpolicy.config import RLConfig, ToyConfig
from cmpolicy.errors import InputError
from cmpolicy.image_config import ImageConfig
from cmpolicy.training.run_directory import RunDirectory

AnyConfig = RLConfig | ToyConfig | ImageConfig

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


def load_config(run: RunDirectory) -> AnyConfig:
    """The configuration that a run was started with.

    Raises:
        InputError: if it does not read.
    """
    try:
        stored = OmegaConf.load(run.config_path)
        schema: AnyConfig
        if "toy" in stored:
            schema = ToyConfig()
        elif "data" in stored:
            schema = ImageConfig()
        else:
            schema = RLConfig(agent=AGENTS[stored.agent.algorithm].Config())
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), stored))
    except (OmegaConfBaseException, yaml.YAMLError, KeyError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{run.config_path} is damaged or from another version: {reason}"
        ) from error
    assert isinstance(config, AnyConfig)
    return config


def resumed_config(path: str | Path, overrides: list[str]) -> AnyConfig:
    """The configuration of the run at `path`, with what a resumed run may change.

    Args:
        overrides: the command line, as ``key=value``.

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
    config = OmegaConf.structured(load_config(run))
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    resumed = OmegaConf.to_object(config)
    assert isinstance(resumed, AnyConfig)
    return resumed
