"""Rows of `offline_rl.py`: one a run, read from its results.json, kept in a CSV file."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

LAST_EVALUATIONS = 5
JUMPS_BETWEEN = 10  # the last evaluations, of which jumps are measured


class Key(NamedTuple):
    """A row's place in the table."""

    set: str
    agent: str
    seed: int


@dataclass
class Row:
    """What a run came to, normalised scores throughout.

    Attributes:
        score: the protocol's: the mean of the last five evaluations during training.
        last, best: the two checkpoints, evaluated on fresh seeds, with standard errors.
        curve: step:score of every evaluation during training.
        wall_seconds: of the whole command, evaluations included, divided among the seeds that it
            trained at once; NaN for a run in several parts.
        instability: see `instability_of`; NaN where it was not measured.
    """

    set: str
    agent: str
    seed: int
    score: float
    last: float
    last_error: float
    best: float
    best_error: float
    best_step: int
    data_mean: float
    updates: int
    updates_per_second: float
    wall_seconds: float
    curve: str
    dataset: str
    comparable: bool
    transitions: int
    environment: str
    machine: str
    versions: str
    date: str
    instability: float = math.nan

    @property
    def key(self) -> Key:
        return Key(self.set, self.agent, self.seed)

    def points(self) -> list[tuple[int, float]]:
        """The learning curve: (step, score)."""
        pairs = (point.split(":") for point in self.curve.split())
        return [(int(step), float(score)) for step, score in pairs]


def row_of(key: Key, run: Path, wall_seconds: float | None, machine: str) -> Row:
    """The row of a finished run directory."""
    found = json.loads((run / "results.json").read_text())
    if not found["finished"]:
        raise RuntimeError(f"{run} did not reach its end")
    curve = [(e["step"], e["eval/normalized_score"]) for e in found["evaluations"]]
    tail = [score for _, score in curve[-LAST_EVALUATIONS:]]
    data, last, best = found["dataset"], found["last"], found["best"]
    versions = {**found["versions"], **found.get("peer", {}).get("versions", {})}
    return Row(
        *key,
        score=sum(tail) / len(tail),
        last=last["normalized_score"],
        last_error=last["score_standard_error"],
        best=best["normalized_score"],
        best_error=best["score_standard_error"],
        best_step=best["step"],
        data_mean=data["mean_normalized_score"],
        updates=last["step"],
        updates_per_second=found["updates_per_second"],
        wall_seconds=math.nan if wall_seconds is None else round(wall_seconds, 1),
        curve=" ".join(f"{step}:{score:.2f}" for step, score in curve),
        dataset=f"{data['dataset_id']} ({data['source']})",
        comparable=data["comparable"],
        transitions=data["transitions"],
        environment=found["environment"]["id"],
        machine=f"{machine}; {device_of(found)}",
        versions=" ".join(f"{name}={number}" for name, number in versions.items()),
        date=found["date"],
        instability=instability_of(
            [
                (e["eval/normalized_score"], e["eval/score_standard_error"])
                for e in found["evaluations"]
            ]
        ),
    )


def instability_of(evaluations: Sequence[tuple[float, float]]) -> float:
    """√max(0, RMS jump² − 2 SE²) over the last ten evaluations, each (score, standard error).

    It is by how much neighbouring checkpoints differ beyond what so few episodes make differ.
    """
    scores, errors = np.array(evaluations[-JUMPS_BETWEEN:], dtype=float).T
    if len(scores) < 2:
        return math.nan
    jump = np.mean(np.diff(scores) ** 2)
    return float(np.sqrt(max(0.0, jump - 2 * np.mean(errors**2))))


def device_of(results: dict[str, Any]) -> str:
    """``cpu``, or the name of the GPU."""
    cpu = results["device"] == "cpu"
    return "cpu" if cpu else str(results["machine"]).partition(",")[0]


def read_rows(path: Path) -> list[Row]:
    """The rows so far; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [typed(row) for row in csv.DictReader(file)]


def typed(row: dict[str, str]) -> Row:
    """Text back to what `Row` holds."""
    read: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": "True".__eq__}
    there = [f for f in fields(Row) if f.name in row]  # files of before have no instability
    return Row(**{f.name: read[str(f.type)](row[f.name]) for f in there})


def add_rows(path: Path, rows: list[Row]) -> None:
    """More rows; two benchmarks may write to one file."""
    with FileLock(path.with_suffix(".lock")):
        write_rows(path, [*read_rows(path), *rows])


def write_rows(path: Path, rows: list[Row]) -> None:
    """The whole file, or nothing of it."""
    text = io.StringIO()
    names = [f.name for f in fields(Row)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    part = path.with_suffix(".part")
    part.write_text(text.getvalue())
    part.replace(path)
