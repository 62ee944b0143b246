"""What every command shares: composing the configuration, and one line when it fails."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from cmpolicy.errors import InputError
from cmpolicy.training.interruption import Interrupted

log = logging.getLogger("cmpolicy")

PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the configurations are inside the package, in a checkout beside it. The path is
# absolute because Hydra resolves a relative one against the calling script.
IN_PACKAGE = PACKAGE / "configs"
CONFIG_PATH = str(IN_PACKAGE if IN_PACKAGE.is_dir() else PACKAGE.parent / "configs")


def run(command: Callable[[Any, list[str]], None], config_name: str) -> None:
    """Compose `configs/<config_name>.yaml` with the command line, call `command`, and exit.

    Exit codes: 0 done, 1 failed at run time, 2 wrong input, 128 + n stopped by signal n. Errors
    are one line; set CMPOLICY_TRACEBACK=1 for the traceback.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing its own
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)

    @hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=config_name)
    def compose_and_call(config: Any) -> None:
        # Errors end here: handed back to Hydra they would be announced a second time.
        try:
            overrides = list(HydraConfig.get().overrides.task)
            command(OmegaConf.to_object(config), overrides)
        except Exception as error:
            sys.exit(report(error))

    try:
        compose_and_call()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(report(error))


class LineFormatter(logging.Formatter):
    """The message alone, with its level in front where that is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        level = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        return level + record.getMessage()


def report(error: Exception) -> int:
    """Print what ended a command, one line, and give its exit code."""
    if isinstance(error, Interrupted):
        print(error, file=sys.stderr)
        return 128 + error.signum
    if os.environ.get("CMPOLICY_TRACEBACK"):
        traceback.print_exception(error)
    wrong_input = isinstance(error, InputError | HydraException | OmegaConfBaseException)
    wrong_input |= type(error) is ValueError  # a range check of a configuration
    reason = explain(error)
    if not wrong_input:
        reason = f"{type(error).__name__}: {reason} (CMPOLICY_TRACEBACK=1 shows where)"
    print(f"error: {reason}", file=sys.stderr)
    return 2 if wrong_input else 1


def explain(error: BaseException) -> str:
    """One line for an error: what was wrong, what was expected."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = sorted(option for option in error.options if not option.endswith("_schema"))
        return f"there is no {group}={name}; choose one of: {', '.join(options)}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MissingMandatoryValue):
            return f"{cause.full_key} is missing; give {cause.full_key}=VALUE"
        if isinstance(cause, ConfigKeyError | ConfigAttributeError):
            known = ", ".join(str(key) for key in cause.parent_node or ())
            return f"there is no key {cause.full_key}; there are: {known}"
        if isinstance(cause, OmegaConfBaseException) and cause.full_key and cause.msg:
            return f"{cause.full_key}: {' '.join(cause.msg.split())}"
        cause = cause.__cause__
    return " ".join(str(error).split())


def resolve_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` as a device that is there.

    Raises:
        InputError: if it is not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}, expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not supported, expected auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(f"device={name} asked for, but {count} GPUs are there; use device=cpu")
    return device
