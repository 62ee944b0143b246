"""Jobs of a sweep: each says what it is, leaves what came of it, and goes on where it was killed.

The directory of a job, SWEEP/NUMBER, holds job.json: its overrides, its run directory, and in the
end its score and exit code. It is all that the processes of a sweep share, on one machine or many.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode

from cmpolicy.atomic_file import write_atomically
from cmpolicy.errors import InputError

log = logging.getLogger("cmpolicy")

FLAGS = {"-m", "--multirun", "hydra.mode=MULTIRUN"}
NAMED = {"env", "agent", "toy", "loss", "data", "image_loss", "seed", "seeds"}  # by the run itself
LONGEST = 80  # characters of settings in the name of a run


class Sweep(Callback):
    """Learns from Hydra where the sweep of this process is; None outside one."""

    directory: ClassVar[Path | None] = None

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Hydra's hook, before the first job."""
        Sweep.directory = Path(config.hydra.sweep.dir).absolute()


def sweep_arguments(arguments: Sequence[str]) -> list[str]:
    """What Hydra must be told beside the command line of a sweep: the keys that do not vary."""
    if not FLAGS & set(arguments):
        return []
    parser, varies = OverridesParser.create(), {}  # the last override of a key counts
    for argument in arguments:
        try:
            override = parser.parse_override(argument)
        except HydraException:  # a flag; or what Hydra itself refuses in a moment
            continue
        if not override.key_or_group.startswith("hydra"):
            varies[override.key_or_group] = override.is_sweep_override()
    fixed = [key for key, does in varies.items() if not does]
    return [
        f"+hydra.callbacks.cmpolicy._target_={Sweep.__module__}.{Sweep.__name__}",
        f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]",
    ]


@dataclass
class Job:
    """One job of a sweep.

    Attributes:
        number: from 0 on.
        overrides: the command line that alone would do the same.
        settings: those that vary within the sweep.
        run: its run directory, once there is one.
        score: the last one, in the end.
        code: the exit code; None for a job that has not ended, or was killed.
        host, pid: of the process that has begun it last.
    """

    directory: Path
    number: int
    overrides: list[str]
    settings: list[str]
    run: str | None = None
    score: float | None = None
    code: int | None = None
    host: str | None = None
    pid: int | None = None

    @classmethod
    def current(cls) -> Job | None:
        """The job that this process performs, with what it left when it was begun before.

        Raises:
            InputError: if the sweep's directory holds another sweep.
        """
        if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
            return None
        hydra = HydraConfig.get()
        overrides = list(hydra.overrides.task)
        fixed = set(hydra.job.config.override_dirname.exclude_keys)
        varied = [o for o in overrides if o.partition("=")[0].lstrip("+~") not in fixed]
        directory = Path(hydra.runtime.cwd, hydra.sweep.dir, hydra.sweep.subdir)
        job = cls(directory, hydra.job.num, overrides, varied)
        earlier = read_job(directory)
        if earlier is not None:
            if earlier.overrides != overrides:
                raise InputError(
                    f"{directory} holds a job of another sweep ({' '.join(earlier.overrides)}); "
                    "choose another hydra.sweep.dir="
                )
            earlier.settings = varied
            return earlier
        return job

    @property
    def unfinished_run(self) -> str | None:
        """The run to go on with: begun before, and neither ended nor failed."""
        begun = self.run is not None and Path(self.run, "config.yaml").is_file()
        killed = self.code is None or self.code >= 128
        return self.run if begun and killed else None

    def write(self, **changes: Any) -> None:
        """Change attributes, and write job.json."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.directory.mkdir(parents=True, exist_ok=True)
        content = {**asdict(self), "directory": str(self.directory)}
        write_atomically(self.directory / "job.json", (json.dumps(content) + "\n").encode())

    def __str__(self) -> str:
        return f"job {self.number}: {' '.join(self.settings) or 'as given'}"


def read_job(directory: Path) -> Job | None:
    """What job.json says; None if there is none that reads."""
    try:
        return Job(**{**json.loads((directory / "job.json").read_text()), "directory": directory})
    except (OSError, ValueError, TypeError):
        return None


def read_jobs(sweep: Path) -> list[Job]:
    """The jobs of a sweep that have begun, by number."""
    jobs = [read_job(file.parent) for file in sweep.glob("*/job.json")]
    return sorted((job for job in jobs if job is not None), key=lambda job: job.number)


def announce_run(path: Path) -> None:
    """Say which job of a sweep has which run directory, and leave it for another attempt."""
    job = Job.current()
    if job is not None:
        log.info("%s   run: %s", job, path)
        job.write(
            run=str(path.absolute()), score=None, code=None, host=platform.node(), pid=os.getpid()
        )


def run_settings() -> str:
    """The settings that vary in this sweep, for the name of a run: ``-radius=0.1-steps=500``."""
    job = Job.current()
    pairs = [setting.partition("=") for setting in job.settings] if job is not None else []
    told = [f"{key.rpartition('.')[2]}={short(v)}" for key, _, v in pairs if key not in NAMED]
    return re.sub(r"[^\w.=+-]+", "_", "".join(f"-{setting}" for setting in told))[:LONGEST]


def short(value: str) -> str:
    """A value with at most four digits, if it is a number with a fraction."""
    try:
        return value if value.lstrip("+-").isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value


def table_of(jobs: Sequence[Job]) -> str:
    """A line a job: number, settings, score, run."""
    rows = [("job", "settings", "score", "run")]
    for job in jobs:
        score = "failed" if job.score is None else f"{job.score:.4g}"
        rows.append((str(job.number), " ".join(job.settings), score, job.run or ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def score_of(value: Any) -> float | None:
    """What a command returned, as the score of its job; None if it is no finite number."""
    is_score = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_score else None
