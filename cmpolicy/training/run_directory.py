"""One run on disk: configuration, checkpoints, metrics, results, learning curve.

config.yaml          what was asked for, resolved
metrics.csv          one row a log: step, then scalars by name
results.json         what came out, last and best apart, and how it was obtained
evaluations.jsonl    evaluations made after training, one a line
policy.safetensors   the averaged policy of the last checkpoint, for ConsistencyPolicy.load
learning_curve.png   scores over updates
checkpoints/         last.safetensors, best.safetensors
tensorboard/         event files
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from cmpolicy.atomic_file import write_atomically
from cmpolicy.errors import InputError
from cmpolicy.training.checkpoint import load_state, save_state


class RunDirectory:
    """The files of a run. Nothing is created before `create` or the first write."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.writer: SummaryWriter | None = None

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def results_path(self) -> Path:
        return self.path / "results.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.csv"

    def checkpoint_path(self, name: str) -> Path:
        return self.path / "checkpoints" / f"{name}.safetensors"

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

    def create(self, config: str) -> None:
        """Make the directory and write the configuration.

        Raises:
            InputError: if it cannot be written, or already holds a run.
        """
        if self.config_path.exists():
            raise InputError(
                f"{self.path} already holds a run; continue it with resume={self.path}, "
                "or choose another run_dir="
            )
        try:
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
        """Begin logging after `step`; rows that a killed run wrote beyond it are dropped."""
        self.writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)
        rows = [row for row in self.read_metrics() if int(row["step"]) <= step]
        self.rows: list[dict[str, Any]] = list(rows)
        self.flush_metrics()

    def read_metrics(self) -> list[dict[str, str]]:
        """The rows of metrics.csv; none if there is no such file."""
        if not self.metrics_path.exists():
            return []
        with self.metrics_path.open(newline="") as file:
            return list(csv.DictReader(file))

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
        """Write checkpoints/`name`.safetensors, whole or not at all."""
        save_state(self.checkpoint_path(name), state)

    def load_checkpoint(self, name: str, device: str = "cpu") -> dict[str, Any]:
        """Read checkpoints/`name`.safetensors."""
        return load_state(self.checkpoint_path(name), device)

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

    def create(self, config: str) -> None:
        """Leave it to the other."""

    def write_config(self, config: str) -> None:
        """Leave it to the other."""

    def open_logs(self, step: int) -> None:
        """Leave it to the other."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Leave it to the other."""

    def flush_metrics(self) -> None:
        """Leave it to the other."""

    def close_logs(self) -> None:
        """Leave it to the other."""

    def save_checkpoint(self, name: str, state: dict[str, Any]) -> None:
        """Leave it to the other."""


def finite(node: Any) -> Any:
    """The same tree with null for what JSON cannot say: NaN and infinity."""
    if isinstance(node, Mapping):
        return {key: finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
