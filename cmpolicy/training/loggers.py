"""Where the log of a run goes: metrics.csv, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
import importlib
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from cmpolicy.atomic_file import write_atomically
from cmpolicy.errors import InputError, needs_extra

Values = npt.NDArray[np.floating[Any]]
ExceptHook = Callable[[threading.ExceptHookArgs], Any]


class Logger:
    """Takes what a run logs; a subclass writes down what it can show and ignores the rest.

    Args:
        run: the run directory.
        step: after which it goes on; what a killed run logged beyond it is dropped if possible.
        config: the content of config.yaml.
    """

    def __init__(self, run: Path, step: int, config: str) -> None:
        """Begin, or go on after `step`."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name; several calls a step add up."""

    def histogram(self, step: int, name: str, values: Values) -> None:
        """The distribution of `values`, of any shape."""

    def video(self, step: int, name: str, path: Path) -> None:
        """An MP4."""

    def flush(self) -> None:
        """Put on the disk what has been logged."""

    def close(self) -> None:
        """End the log."""


class CSVLogger(Logger):
    """metrics.csv: a row a step, a column a name, written whole at each flush."""

    def __init__(self, run: Path, step: int, config: str) -> None:
        self.path = run / "metrics.csv"
        rows = [row for row in read_metrics(self.path) if int(row["step"]) <= step]
        self.rows: list[dict[str, Any]] = list(rows)
        self.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self.rows and int(self.rows[-1]["step"]) == step:
            self.rows[-1].update(values)
        else:
            self.rows.append({"step": step, **values})

    def flush(self) -> None:
        names = dict.fromkeys(name for row in self.rows for name in row)
        text = io.StringIO()
        table = csv.DictWriter(text, list(names) or ["step"], restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_atomically(self.path, text.getvalue().encode())

    def close(self) -> None:
        self.flush()


class TensorBoardLogger(Logger):
    """Event files in tensorboard/; hyperparameters appear with the first evaluation."""

    def __init__(self, run: Path, step: int, config: str) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        threading.excepthook = without_threads_of_tensorboard(threading.excepthook)
        self.writer: Any = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        self.unnamed: dict[str, Any] | None = hyperparameters(config)
        self.writer.add_text("config", f"```yaml\n{config}\n```", step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        scores = [name for name in values if name.startswith("eval/")]
        if scores and self.unnamed is not None:
            summaries: Any = importlib.import_module("torch.utils.tensorboard.summary")
            for summary in summaries.hparams(self.unnamed, dict.fromkeys(scores, 0.0)):
                self.writer.file_writer.add_summary(summary)
            self.unnamed = None

    def histogram(self, step: int, name: str, values: Values) -> None:
        self.writer.add_histogram(name, values, step)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def without_threads_of_tensorboard(hook: ExceptHook) -> ExceptHook:
    """Let `hook` not print what a writing thread raised, which the next call of the writer raises.

    A full disk is then one line.
    """

    def tell(raised: threading.ExceptHookArgs) -> None:
        if type(raised.thread).__name__ != "_AsyncWriterThread":
            hook(raised)

    known = getattr(hook, "__qualname__", "") == tell.__qualname__
    return hook if known else tell


class WandbLogger(Logger):
    """A run of Weights & Biases, project ``cmpolicy``, which a resumed run goes on with.

    Its variables hold: WANDB_MODE=offline needs no network, WANDB_PROJECT names another project.

    Raises:
        InputError: if the extra `wandb` is not installed.
    """

    def __init__(self, run: Path, step: int, config: str) -> None:
        check_installed(["wandb"])
        wandb: Any = importlib.import_module("wandb")
        self.wandb, known = wandb, run / "wandb_id.txt"
        self.run = wandb.init(
            dir=str(run),
            name=f"{run.parent.name}/{run.name}",
            id=known.read_text() if known.exists() else None,
            resume="allow",
            config=yaml.safe_load(config),
            project=os.environ.get("WANDB_PROJECT", "cmpolicy"),
        )
        write_atomically(known, self.run.id.encode())
        self.run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({**values, "step": step})

    def histogram(self, step: int, name: str, values: Values) -> None:
        self.run.log({name: self.wandb.Histogram(values.reshape(-1)), "step": step})

    def video(self, step: int, name: str, path: Path) -> None:
        self.run.log({name: self.wandb.Video(str(path), format="mp4"), "step": step})

    def close(self) -> None:
        self.run.finish()


LOGGERS: dict[str, type[Logger]] = {
    "csv": CSVLogger,
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
}


def check_loggers(names: Sequence[str]) -> None:
    """Raise ValueError for a name that is not in LOGGERS."""
    if unknown := [name for name in names if name not in LOGGERS]:
        raise ValueError(f"unknown logger {unknown[0]!r}, expected some of {', '.join(LOGGERS)}")


def check_installed(names: Sequence[str]) -> None:
    """Raise InputError if the package of a logger is missing."""
    if "wandb" in names:
        with needs_extra("wandb"):
            importlib.import_module("wandb")


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv; none if there is no such file.

    Raises:
        InputError: if a row has no step.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        assert all(int(row["step"]) >= 0 for row in rows)
    except (AssertionError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path} is damaged: expected a whole number `step` in every row; "
            "repair the file or remove it"
        ) from error
    return rows


def hyperparameters(config: str) -> dict[str, Any]:
    """The leaves of a configuration by their dotted names, of types that TensorBoard takes."""

    def leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, Mapping):
            for key, child in node.items():
                yield from leaves(child, f"{prefix}.{key}" if prefix else str(key))
        else:
            yield prefix, node if isinstance(node, bool | int | float | str) else str(node)

    return dict(leaves(yaml.safe_load(config) or {}, ""))


def open_loggers(names: Iterable[str], run: Path, step: int, config: str) -> list[Logger]:
    """Begin the logs of a run, see `Logger`.

    Raises:
        InputError: if a package is missing.
    """
    return [LOGGERS[name](run, step, config) for name in names]
