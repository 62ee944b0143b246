"""The configuration of a run that goes on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cmpolicy.cli.run_config import RunConfig
from cmpolicy.errors import InputError
from cmpolicy.plugins import NotInstalledError
from cmpolicy.training.run_directory import RunDirectory

C = TypeVar("C", bound=RunConfig)

CHANGEABLE = (
    "steps",
    "online.steps",
    "online.return_temperature",
    "agent.eta",  # an environment bears stronger guidance than data do
    "agent.radius",
    "eval.every",
    "eval.episodes",
    "eval.final_episodes",
    "eval.samples",
    "eval.final_samples",
    "accumulate",
    "dataset.path",
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
    """Load the configuration that a run was started with; None if it is of none of the kinds.

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
    except NotInstalledError as error:
        raise InputError(f"{run.config_path}: {error}") from None
    except (OmegaConfBaseException, yaml.YAMLError, KeyError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{run.config_path} is damaged or from another version: {reason}"
        ) from error
    assert isinstance(config, kind)
    return config


def resumed_config(path: str | Path, overrides: list[str], *kinds: type[C]) -> C:
    """Load the configuration of the run at `path`, with what a resumed run may change.

    Args:
        overrides: the command line, as ``key=value``.
        kinds: of runs, one of which it is.

    Raises:
        InputError: for a key that would make it another run, such as `agent` or `seed`.
    """
    run = RunDirectory.existing(path)
    given = dict(override.partition("=")[::2] for override in overrides)
    changes = {key: value for key, value in given.items() if key not in ("resume", "env.id")}
    for key in changes:
        if key not in CHANGEABLE:
            raise InputError(
                f"{key} cannot change in a run that has begun; what can: {', '.join(CHANGEABLE)}"
            )
    stored = load_config(run, *kinds)
    if stored is None:
        keys = ", ".join(kind.OWN_KEY for kind in kinds)
        raise InputError(
            f"{run.config_path} is damaged or from another version: it has none of the keys {keys}"
        )
    check_environment(stored, given.get("env.id"), overrides)
    config = OmegaConf.structured(stored)
    for key, value in changes.items():
        OmegaConf.update(config, key, yaml.safe_load(value))
    resumed = OmegaConf.to_object(config)
    assert isinstance(resumed, type(stored))
    return resumed


def check_environment(config: RunConfig, repeated: str | None, overrides: list[str]) -> None:
    """Raise InputError if a run would import a module that the user has not named.

    Args:
        repeated: `env.id` on the command line, which may not be another than the run's.
    """
    env_id = getattr(getattr(config, "env", None), "id", None)
    if repeated is not None and repeated != env_id:
        raise InputError(f"env.id cannot change in a run that has begun; it is {env_id}")
    if imports_module(env_id) and repeated is None:
        command = shlex.join([*overrides, f"env.id={env_id}"])
        raise InputError(
            f"the run's environment {env_id} imports a module; if you trust it, repeat its name: "
            f"python -m cmpolicy.train {command}"
        )


def imports_module(env_id: str | None) -> bool:
    """Whether Gymnasium imports a module that the id, or its keyword arguments, name."""
    return env_id is not None and (":" in env_id or env_id.startswith(("GymV21", "GymV26")))
