"""Runs to compare: where they are, what they scored, and how they are grouped over seeds."""

from __future__ import annotations

import glob
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cmpolicy.errors import InputError, one_line
from cmpolicy.training.run_directory import RunDirectory

Settings = tuple[tuple[str, str], ...]
log = logging.getLogger("cmpolicy")

# Keys that make no other experiment: of seeds, places, machines, and of what is written down.
NEUTRAL = {
    *("seed", "seeds", "run_dir", "output_dir", "resume", "device", "threads", "progress"),
    *("log_every", "checkpoint_every", "logger", "eval.parallel", "eval.video_every"),
}
MOST_SETTINGS = 3  # that the name of a group tells
ABSENT = "–"  # of a key that a configuration does not have


@dataclass(frozen=True)
class Measure:
    """What a run is scored by: `key` names it in results.json, under ``eval/`` in evaluations."""

    key: str
    label: str
    error: str = ""  # key of its standard error over episodes
    higher_is_better: bool = True


MEASURES = (
    Measure("normalized_score", "normalised score", "score_standard_error"),
    Measure("mean_return", "return", "return_standard_error"),
    Measure("mean_reward", "reward"),
    Measure("w1", "W1 of one-step samples", higher_is_better=False),
    Measure("sliced_w2", "sliced W2 of one-step samples", higher_is_better=False),
    Measure("pixel_sliced_w2", "sliced W2 of pixels", higher_is_better=False),
)
NO_SCORE = Measure("", "no score")


@dataclass(frozen=True)
class Outcome:
    """A score after `step` updates, with its standard error over episodes where there is one."""

    step: int
    score: float
    error: float | None


@dataclass(frozen=True)
class RunSummary:
    """One run, as its directory describes it.

    Attributes:
        method: agent or loss.
        config: every key by its dotted name, with ``data`` and ``environment`` as they were found.
        curve: (step, score) of the evaluations during training.
        last, best: of the evaluations at the end; None before that.
        results: the content of results.json.
    """

    path: Path
    task: str
    method: str
    config: Mapping[str, Any]
    measure: Measure
    curve: tuple[tuple[int, float], ...]
    last: Outcome | None
    best: Outcome | None
    results: Mapping[str, Any] = field(repr=False)

    @property
    def seed(self) -> Any:
        return self.results.get("seed", ABSENT)


@dataclass(frozen=True)
class Group:
    """Runs of one task and one configuration, which differ in their seeds.

    Attributes:
        label: method and settings, ``ac, radius=0.05``; unique among the groups of a task.
        settings: the keys that differ between groups of the method, with this group's values.
    """

    task: str
    label: str
    settings: Settings
    runs: tuple[RunSummary, ...]

    def scores(self, which: str) -> list[float]:
        """The ``last`` or ``best`` scores of the finished runs."""
        return [outcome.score for run in self.runs if (outcome := getattr(run, which)) is not None]


def find_runs(patterns: Iterable[str | Path]) -> list[Path]:
    """The run directories that paths and globs name, or that lie below them, in order.

    A run of several seeds counts as its seeds.

    Raises:
        InputError: if one of them names nothing, or holds no run.
    """
    found: dict[Path, None] = {}
    for pattern in map(str, patterns):
        places = [pattern]
        if not Path(pattern).exists():
            places = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  # may be absolute
        if not places:
            raise InputError(f"there is no {pattern}; give run directories, or one above them")
        below = [run for place in places for run in runs_below(Path(place))]
        if not below:
            raise InputError(f"{pattern} holds no run: there is no config.yaml in it or below it")
        found |= dict.fromkeys(below)
    return list(found)


def runs_below(place: Path) -> list[Path]:
    """`place`, or the run directories below it, without those that hold others."""
    if place.is_file():
        place = place.parent
    configs = sorted(place.rglob("config.yaml"))
    runs = [config.parent for config in configs if not config.parent.name.startswith(".")]
    for job in sorted(place.rglob("job.json")):  # of a sweep, whose runs are elsewhere
        run = json.loads(job.read_text()).get("run")
        runs += [Path(run)] if run and Path(run, "config.yaml").is_file() else []
    above = {parent for run in runs for parent in run.parents}
    return [run for run in runs if run not in above]


def load_runs(paths: Iterable[Path]) -> list[RunSummary]:
    """Read the runs; one that is damaged, or has not begun, is left out with a warning.

    Raises:
        InputError: if none can be read.
    """
    runs = []
    for path in paths:
        try:
            runs.append(load_run(path))
        except (InputError, yaml.YAMLError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning("%s is left out: %s", path, one_line(error))
    if not runs:
        raise InputError("none of the runs can be read")
    return runs


def load_run(path: Path) -> RunSummary:
    """Read one run.

    Raises:
        InputError: if results.json is missing or damaged; or whatever a damaged file gives.
    """
    run = RunDirectory(path)
    results = run.read_results()
    config = dict(flat(yaml.safe_load(run.config_path.read_text(encoding="utf-8"))))
    dataset, environment = results.get("dataset") or {}, results.get("environment") or {}
    config["data"] = dataset.get("dataset_id", dataset.get("name", results["task"]))
    config["environment"] = environment.get("id", ABSENT)
    evaluations = results.get("evaluations", [])
    measure = measure_of([*evaluations[:1], results.get("last", {})])
    scored = [(e["step"], e.get(f"eval/{measure.key}")) for e in evaluations]
    return RunSummary(
        path=path,
        task=results["task"],
        method=results.get("agent") or results["loss"]["name"],
        config=config,
        measure=measure,
        curve=tuple((step, score) for step, score in scored if score is not None),
        last=outcome_of(results.get("last"), measure),
        best=outcome_of(results.get("best"), measure),
        results=results,
    )


def measure_of(rows: Sequence[Mapping[str, Any]]) -> Measure:
    """The first of MEASURES that one of the rows has."""
    for measure in MEASURES:
        values = [row.get(f"eval/{measure.key}", final_value(row, measure.key)) for row in rows]
        if any(value is not None for value in values):
            return measure
    return NO_SCORE


def final_value(row: Mapping[str, Any], key: str) -> Any:
    """A value of ``last`` or ``best``; of distances that of the first sampler."""
    distances: Mapping[str, Any] = next(iter(row.get("distances", {}).values()), {})
    return row.get(key, distances.get(key))


def outcome_of(row: Mapping[str, Any] | None, measure: Measure) -> Outcome | None:
    """The score of a final evaluation; None if there is none yet, or it was not finite."""
    if row is None or (value := final_value(row, measure.key)) is None:
        return None
    return Outcome(row["step"], float(value), row.get(measure.error))


def flat(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The leaves of nested mappings by their dotted names."""
    if isinstance(node, Mapping) and node:
        for key, child in node.items():
            yield from flat(child, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def as_text(value: Any) -> str:
    """A value of a configuration as the command line has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def value_of(run: RunSummary, key: str) -> str:
    """A key of a run's configuration as text; ABSENT if the run has no such key."""
    return as_text(run.config[key]) if key in run.config else ABSENT


def differing_keys(runs: Sequence[RunSummary]) -> list[str]:
    """Keys whose values are not the same in all runs, NEUTRAL ones left out, sorted."""
    keys = {key for run in runs for key in run.config} - NEUTRAL
    return sorted(key for key in keys if len({value_of(run, key) for run in runs}) > 1)


def group_runs(runs: Sequence[RunSummary]) -> list[Group]:
    """The runs by task, method and the keys that differ between runs of both."""
    by_both = defaultdict(list)
    for run in runs:
        by_both[run.task, run.method].append(run)
    keys: dict[str, dict[str, None]] = defaultdict(dict)  # that differ anywhere, by method
    for (_, method), own in by_both.items():
        keys[method] |= dict.fromkeys(differing_keys(own))
    groups = defaultdict(list)
    for run in runs:
        settings = tuple((key, value_of(run, key)) for key in sorted(keys[run.method]))
        groups[run.task, run.method, settings].append(run)
    variants = list(dict.fromkeys((method, settings) for _, method, settings in groups))
    return [
        Group(task, label_of(method, settings, variants), settings, tuple(own))
        for (task, method, settings), own in groups.items()
    ]


def label_of(method: str, settings: Settings, variants: Sequence[tuple[str, Settings]]) -> str:
    """The method with its settings; with a number instead of more than MOST_SETTINGS."""
    if len(settings) > MOST_SETTINGS:
        numbers = [own for name, own in variants if name == method]
        return f"{method} #{numbers.index(settings) + 1}"
    last = [key.rpartition(".")[2] for key, _ in settings]
    named = (
        f"{key if last.count(name) > 1 else name}={value}"
        for name, (key, value) in zip(last, settings, strict=True)
    )
    return ", ".join([method, *named])
