"""What every command shares: composing the configuration, and one line when it fails."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cmpolicy.errors import InputError
from cmpolicy.training.interruption import Interrupted, StopSignal, stopped_at_once

if TYPE_CHECKING:
    import torch

log = logging.getLogger("cmpolicy")
T = TypeVar("T")

PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the configurations are inside the package, in a checkout beside it. The path is
# absolute because Hydra resolves a relative one against the calling script.
IN_PACKAGE = PACKAGE / "configs"
CONFIG_PATH = str(IN_PACKAGE if IN_PACKAGE.is_dir() else PACKAGE.parent / "configs")


def run(
    command: Callable[[Any, list[str]], None], config_name: str, schemas: Sequence[str] = ()
) -> None:
    """Compose `configs/<config_name>.yaml` with the command line, call `command`, and exit.

    Exit codes: 0 done, 1 failed at run time, 2 wrong input, 128 + n stopped by signal n. Errors
    are one line; set CMPOLICY_TRACEBACK=1 for the traceback. In a sweep the other jobs go on.

    Args:
        schemas: modules that register the schemas of the configuration.
    """

    def composed() -> dict[str, int]:
        for schema in schemas:  # they import torch, which takes seconds
            importlib.import_module(schema)
        return compose_and_call(command, config_name)

    failed = in_one_line(composed)
    if failed:
        jobs = "; ".join(failed)
        print(f"error: {len(failed)} of the sweep's jobs failed: {jobs}", file=sys.stderr)
        sys.exit(min(failed.values()))


def in_one_line(command: Callable[[], T]) -> T:
    """Call `command` with the log on stderr; a signal or an error ends the process in one line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    try:
        with stopped_at_once():
            return command()
    except StopSignal as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)
    except Exception as error:
        sys.exit(report(error))


def compose_and_call(command: Callable[[Any, list[str]], None], config_name: str) -> dict[str, int]:
    """Let Hydra compose the configuration and call `command`, once for each job of a sweep.

    Returns the jobs of a sweep that failed, with their exit codes; outside a sweep it exits.
    """
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from cmpolicy.cli.keys import check_keys

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing its own
    store = ConfigStore.instance()
    # Hydra copies its store, but changes no copy, for each group that --help lists.
    setattr(store, "__deepcopy__", lambda memo: store)  # noqa: B010
    failed: dict[str, int] = {}
    process = os.getpid()

    @hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=config_name)
    def call(config: Any) -> None:
        # Errors end here: handed back to Hydra they would be announced a second time.
        overrides = list(HydraConfig.get().overrides.task)
        try:
            check_keys(config)
            command(OmegaConf.to_object(config), overrides)
        except Exception as error:
            code = report(error)
            here = os.getpid() == process  # and not with a launcher's worker
            if isinstance(error, Interrupted) or not here or HydraConfig.get().mode == RunMode.RUN:
                sys.exit(code)
            failed[" ".join(overrides)] = code

    call()
    return failed


class LineFormatter(logging.Formatter):
    """The message alone, with its level in front where that is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one line."""
        level = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        return level + record.getMessage()


def report(error: Exception) -> int:
    """Print in one line what ended a command, and return its exit code."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from cmpolicy.cli.keys import explain

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


def resolve_device(name: str) -> torch.device:
    """Return the device ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: if there is no such device.
    """
    import torch

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
