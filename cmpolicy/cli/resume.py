"""The configuration of a run that goes on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cmpolicy.cli.keys import check_finite
from cmpolicy.cli.run_config import RunConfig
from cmpolicy.errors import InputError, one_line
from cmpolicy.plugins import NotInstalledError
from cmpolicy.training.run_directory import RunDirectory

C = TypeVar("C", bound=RunConfig)

MOST_CHARACTERS = 1 << 20  # of a config.yaml
UNREADABLE = (
    *(yaml.YAMLError, KeyError, ValueError, TypeError, OSError, RecursionError, AssertionError),
    *(AttributeError, OverflowError),
)

CHANGEABLE = (
    "steps",
    "online.steps",
    "online.return_temperature",
    "agent.eta",  # an environment bears stronger guidance than data do
    "agent.radius",
    "agent.learning_rate",  # after a divergence
    "agent.critic_learning_rate",
    "agent.max_grad_norm",
    "loss.learning_rate",
    "loss.max_grad_norm",
    "eval.every",
    "eval.episodes",
    "eval.final_episodes",
    "eval.samples",
    "eval.final_samples",
    "eval.parallel",
    "eval.timeout",
    "eval.tolerated_failures",
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
        text = run.config_path.read_text(encoding="utf-8")
        check_yaml(text)
        stored = OmegaConf.create(text)
        if not isinstance(stored, DictConfig):
            raise ValueError("it holds no keys")
        kind = next((kind for kind in kinds if kind.OWN_KEY in stored), None)
        if kind is None:
            return None
        schema = kind.schema_of(stored)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), stored))
        check_finite(config)
    except NotInstalledError as error:
        raise InputError(f"{run.config_path}: {error}") from None
    except (OmegaConfBaseException, *UNREADABLE) as error:
        reason = one_line(error)
        raise InputError(
            f"{run.config_path} is damaged or from another version: {reason}"
        ) from error
    assert isinstance(config, kind)
    return config


def check_yaml(text: str) -> None:
    """Raise ValueError for what no configuration of ours has and which takes memory without end."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters, expected at most {MOST_CHARACTERS}")
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise ValueError("it has YAML aliases")


def resumed_config(path: str | Path, overrides: list[str], *kinds: type[C]) -> C:
    """Load the configuration of the run at `path`, with what a resumed run may change.

    Args:
        overrides: the command line, as ``key=value``.
        kinds: of runs, one of which it is.

    Raises:
        InputError: for a key that would make it another run, such as `agent` or `seed`.
    """
    run = RunDirectory.existing(path)
    given = values_of(overrides)
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
        OmegaConf.update(config, key, value)
    resumed = OmegaConf.to_object(config)
    check_finite(resumed)
    assert isinstance(resumed, type(stored))
    return resumed


def values_of(overrides: list[str]) -> dict[str, Any]:
    """The values of a command line, ``key=value``, in Hydra's grammar."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    keys = [override.partition("=")[0] for override in overrides]
    return {key: each.value() for key, each in zip(keys, parsed, strict=True)}


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
