"""One run on disk: configuration, checkpoints, metrics, results, learning curve.

config.yaml          what was asked for, resolved
metrics.csv          one row a log: step, then scalars by name
results.json         what came out, last and best apart, and how it was obtained
evaluations.jsonl    evaluations made after training, one a line
policy.safetensors   the averaged policy of the last checkpoint, for ConsistencyPolicy.load
learning_curve.png   scores over updates
policies/            the averaged policy at each evaluation, STEP.safetensors
checkpoints/         last.safetensors, the one before it (previous), best.safetensors
tensorboard/         event files
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import logging
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpolicy.atomic_file import write_atomically
from cmpolicy.errors import InputError
from cmpolicy.training.checkpoint import load_state, save_state

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("cmpolicy")


class RunDirectory:
    """The files of a run. Nothing is created before `create` or the first write."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.writer: SummaryWriter | None = None
        self.last_is_damaged = False
        self.resume_arguments: tuple[str, ...] = ()  # which a resumed run needs once more

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def results_path(self) -> Path:
        return self.path / "results.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def last_policy_path(self) -> Path:
        return self.path / "policy.safetensors"

    def checkpoint_path(self, name: str) -> Path:
        return self.path / "checkpoints" / f"{name}.safetensors"

    def policy_path(self, step: int) -> Path:
        return self.path / "policies" / f"{step}.safetensors"

    @property
    def resume_command(self) -> str:
        """The command line that goes on with this run."""
        arguments = [f"resume={self.path}", *self.resume_arguments]
        return f"python -m cmpolicy.train {shlex.join(arguments)}"

    @classmethod
    def existing(cls, path: str | Path) -> RunDirectory:
        """Open a run that `create` made.

        Raises:
            InputError: if there is none.
        """
        run = cls(path)
        if not run.config_path.is_file():
            raise InputError(
                f"{path} is not a run: it holds no config.yaml; give the directory that "
                "cmpolicy.train printed"
            )
        return run

    def create(self, config: str, *, rename: bool = False) -> None:
        """Make the directory and write the configuration.

        Args:
            rename: where there is such a directory already, append -2, -3 and so on to its name.

        Raises:
            InputError: if it cannot be written, or already holds a run.
        """
        if not rename and self.config_path.exists():
            raise InputError(
                f"{self.path} already holds a run; continue it with "
                f"{shlex.quote(f'resume={self.path}')}, or choose another run_dir="
            )
        try:
            if rename:
                self.path = make_new_directory(self.path)
            self.write_config(config)
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(
                f"cannot write to {self.path}: {reason}; choose another output_dir="
            ) from error

    def write_config(self, config: str) -> None:
        """Write config.yaml, whole or not at all; the directory is made where it is missing."""
        self.checkpoint_path("last").parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config_path, config.encode())

    def open_logs(self, step: int) -> None:
        """Begin logging after `step`; what a killed run wrote beyond it is dropped."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        for unfinished in self.path.rglob(".*.tmp"):
            unfinished.unlink()
        self.writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)
        rows = [row for row in self.read_metrics() if int(row["step"]) <= step]
        self.rows: list[dict[str, Any]] = list(rows)
        self.flush_metrics()

    def read_metrics(self) -> list[dict[str, str]]:
        """The rows of metrics.csv; none if there is no such file.

        Raises:
            InputError: if a row has no step.
        """
        if not self.metrics_path.exists():
            return []
        try:
            with self.metrics_path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
            assert all(int(row["step"]) >= 0 for row in rows)
        except (AssertionError, KeyError, TypeError, ValueError, csv.Error) as error:
            raise InputError(
                f"{self.metrics_path} is damaged: expected a whole number `step` in every row; "
                "repair the file or remove it"
            ) from error
        return rows

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write scalars of `step` to TensorBoard and metrics.csv."""
        assert self.writer is not None, "open_logs comes first"
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        if self.rows and int(self.rows[-1]["step"]) == step:
            self.rows[-1].update(scalars)
        else:
            self.rows.append({"step": step, **scalars})

    def flush_metrics(self) -> None:
        """Put the rows so far on the disk."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        text = io.StringIO()
        table = csv.DictWriter(text, list(names) or ["step"], restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_atomically(self.metrics_path, text.getvalue().encode())
        if self.writer is not None:
            self.writer.flush()

    def close_logs(self) -> None:
        """Flush and close the event file."""
        self.flush_metrics()
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def save_checkpoint(self, name: str, state: dict[str, Any]) -> None:
        """Write checkpoints/`name`.safetensors; of `last` the previous one is kept."""
        keep = None
        if name == "last" and not self.last_is_damaged:
            keep = self.checkpoint_path("previous")
        save_state(self.checkpoint_path(name), state, keep)
        self.last_is_damaged &= name != "last"

    def load_checkpoint(self, name: str, device: str = "cpu") -> dict[str, Any]:
        """Read checkpoints/`name`.safetensors; where `last` is damaged or missing, the previous.

        Raises:
            InputError: if neither can be read.
        """
        previous = self.checkpoint_path("previous")
        try:
            return load_state(self.checkpoint_path(name), device)
        except InputError as error:
            if name != "last" or not previous.exists():
                raise
            state = load_state(previous, device)
            log.warning("%s; using the checkpoint before it, %s", error, previous)
            self.last_is_damaged = True
            return state

    def has_checkpoint(self) -> bool:
        """Whether the run has saved a state to go on from."""
        return any(self.checkpoint_path(name).exists() for name in ("last", "previous"))

    def read_results(self) -> dict[str, Any]:
        """Read results.json.

        Raises:
            InputError: if it is missing or damaged.
        """
        try:
            results: dict[str, Any] = json.loads(self.results_path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{self.results_path} is missing or damaged: {error}") from error
        return results

    def append_evaluation(self, row: Mapping[str, Any]) -> None:
        """Add a line to evaluations.jsonl, the evaluations made after training."""
        with (self.path / "evaluations.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json, whole or not at all."""
        write_atomically(self.results_path, (json.dumps(finite(results), indent=2) + "\n").encode())


class SilentRunDirectory(RunDirectory):
    """A run that this process reads and another one writes."""

    def _leave_it(self, *args: Any, **options: Any) -> None:
        """Write nothing."""

    create = write_config = open_logs = log = _leave_it
    flush_metrics = close_logs = save_checkpoint = _leave_it


def make_new_directory(path: Path) -> Path:
    """Make the first directory of `path`, `path`-2, `path`-3, … that is not there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with contextlib.suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise AssertionError


def finite(node: Any) -> Any:
    """The same tree with null for what JSON cannot say: NaN and infinity."""
    if isinstance(node, Mapping):
        return {key: finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
