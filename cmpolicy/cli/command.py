"""What every command shares: composing the configuration, and one line when it fails."""

from __future__ import annotations

import importlib
import inspect
import io
import logging
import math
import os
import platform
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cmpolicy.errors import InputError
from cmpolicy.training.interruption import Interrupted, StopSignal, stopped_at_once

if TYPE_CHECKING:
    import torch

log = logging.getLogger("cmpolicy")
T = TypeVar("T")
Command = Callable[[Any, list[str]], float | None]  # of a configuration and its overrides

PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the configurations are inside the package, in a checkout beside it. The path is
# absolute because Hydra resolves a relative one against the calling script.
IN_PACKAGE = PACKAGE / "configs"
CONFIG_PATH = str(IN_PACKAGE if IN_PACKAGE.is_dir() else PACKAGE.parent / "configs")


def run(command: Command, config_name: str, schemas: Sequence[str] = ()) -> None:
    """Compose `configs/<config_name>.yaml` with the command line, call `command`, and exit.

    Exit codes: 0 done, 1 failed at run time, 2 wrong input, 128 + n stopped by signal n. Errors
    are one line; set CMPOLICY_TRACEBACK=1 for the traceback. In a sweep the other jobs go on.

    Args:
        command: returns the score of a job, higher is better, for Hydra's sweepers; or None.
        schemas: modules that register the schemas of the configuration.
    """

    def composed() -> int:
        for schema in schemas:  # they import torch, which takes seconds
            importlib.import_module(schema)
        if asks_for_help(sys.argv[1:]):
            document = inspect.getdoc(sys.modules[command.__module__]) or ""
            print_quietly(help_of(document, CONFIG_PATH, config_name, sys.argv[1:]))
            return 0
        return compose_and_call(command, config_name)

    from cmpolicy.cli.help import asks_for_help, help_of, print_quietly

    code = in_one_line(composed)
    if code:
        sys.exit(code)


def in_one_line(command: Callable[[], T]) -> T:
    """Call `command` with the log on stderr; a signal or an error ends the process in one line."""
    log_to_stderr()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may know no ± and no é
            with suppress(OSError):
                stream.reconfigure(errors="backslashreplace")
    try:
        with starting():
            return command()
    except Exception as error:
        sys.exit(report(error))


@contextmanager
def starting() -> Iterator[None]:
    """Within, where a command's module imports torch, which takes seconds, Ctrl-C is one line."""
    if threading.current_thread() is not threading.main_thread():
        yield  # a command's module is imported as any other
        return
    try:
        with stopped_at_once():
            yield
    except StopSignal as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)


def log_to_stderr(prefix: str = "") -> None:
    """Write the log of this process to stderr, each line after `prefix`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(prefix))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def compose_and_call(command: Command, config_name: str) -> int:
    """Let Hydra compose the configuration and call `command`, once for each job of a sweep.

    Returns the exit code of a sweep, after its table; outside a sweep an error ends the process.
    """
    import hydra
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from cmpolicy.cli.keys import check_finite, check_keys
    from cmpolicy.cli.sweep import Sweep, sweep_arguments

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing its own
    store = ConfigStore.instance()
    # Hydra copies its store, but changes no copy, for each group that --help lists.
    setattr(store, "__deepcopy__", lambda memo: store)  # noqa: B010
    changes = changes_of_resumed(sys.argv)
    sys.argv = [argument for argument in sys.argv if argument not in changes]
    here = (platform.node(), os.getpid())
    Sweep.directory = None

    @hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=config_name)
    def call(config: Any) -> float | None:
        # Errors end in `perform`: handed back to Hydra they would be announced a second time.
        def checked() -> Any:
            check_keys(config)
            composed = OmegaConf.to_object(config)
            check_finite(composed)
            return composed

        in_worker = (platform.node(), os.getpid()) != here
        return perform(command, checked, changes, in_worker=in_worker)

    sys.argv[1:] += sweep_arguments(sys.argv[1:])
    try:
        call()
    finally:
        code = 0 if Sweep.directory is None else end_sweep(Sweep.directory)
    return code


def perform(
    command: Command, config: Callable[[], Any], changes: list[str], *, in_worker: bool
) -> float | None:
    """Perform a command or one job of a sweep; return its score.

    Args:
        config: composes and checks the configuration.
        changes: see `changes_of_resumed`.
        in_worker: in another process than the one that the user started.
    """
    from hydra.core.hydra_config import HydraConfig

    from cmpolicy.cli.sweep import Job, score_of
    from cmpolicy.training.progress import Progress

    hydra = HydraConfig.get()
    overrides, job = [*hydra.overrides.task, *changes], None
    prefix = f"[{hydra.job.num}] " if in_worker else ""
    if in_worker:  # of a launcher, perhaps on another machine
        log_to_stderr(prefix)
        os.chdir(hydra.runtime.cwd)
        Progress.bars = False
    try:
        job = Job.current()
        if job is not None and job.code == 0:
            log.info("%s   has ended before", job)
            return job.score
        configured = config()
        if job is not None and job.unfinished_run is not None and hasattr(configured, "resume"):
            configured.resume = job.unfinished_run
            overrides = [o for o in overrides if o.startswith("env.id=")]
        value = command(configured, overrides)
    except Exception as error:
        code = report(error, prefix)
        if isinstance(error, Interrupted) or job is None:
            sys.exit(code)
        (Job.current() or job).write(code=code)
        return math.nan  # which Hydra's sweepers take for a failure
    if job is not None:
        (Job.current() or job).write(score=score_of(value), code=0)
    return value


def end_sweep(directory: Path) -> int:
    """Print the table of a sweep; return its exit code."""
    from cmpolicy.cli.sweep import read_jobs, table_of

    jobs = read_jobs(directory)
    if not jobs:  # the first one did not compose, which is told elsewhere
        return 0
    print(table_of(jobs))
    print(f"sweep: {directory}")
    failed = {f"{job}": 1 if job.code is None else job.code for job in jobs if job.code != 0}
    if failed:
        print(
            f"error: {len(failed)} of the sweep's jobs failed: {'; '.join(failed)}; the same "
            f"command with hydra.sweep.dir={directory} goes on with what has not ended",
            file=sys.stderr,
        )
    return min(failed.values(), default=0)


def changes_of_resumed(argv: Sequence[str]) -> list[str]:
    """The changes on the command line of one resumed run.

    They are for its own configuration, whose keys those of the command's may lack; so Hydra does
    not see them.
    """
    given = [argument for argument in argv[1:] if not argument.startswith("-") and "=" in argument]
    resumed = any(argument.startswith("resume=") for argument in given)
    if not resumed or {"-m", "--multirun"} & set(argv):
        return []
    return [argument for argument in given if not argument.startswith(("resume=", "hydra"))]


class LineFormatter(logging.Formatter):
    """The message alone, with its level in front where that is a warning or worse."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        self.prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        """Format one line."""
        level = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        return self.prefix + level + record.getMessage()


def report(error: Exception, prefix: str = "") -> int:
    """Print in one line, after `prefix`, what ended a command; return its exit code."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from cmpolicy.cli.keys import explain

    if isinstance(error, Interrupted):
        print(f"{prefix}{error}", file=sys.stderr)
        return 128 + error.signum
    if os.environ.get("CMPOLICY_TRACEBACK"):
        traceback.print_exception(error)
    wrong_input = isinstance(error, InputError | HydraException | OmegaConfBaseException)
    wrong_input |= type(error) is ValueError  # a range check of a configuration
    reason = explain(error)
    if not wrong_input:
        reason = f"{type(error).__name__}: {reason} (CMPOLICY_TRACEBACK=1 shows where)"
    print(f"{prefix}error: {reason}", file=sys.stderr)
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
