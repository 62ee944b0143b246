"""The sections of the page: scores of a task, scores over tasks, settings, films, runs."""

from __future__ import annotations

import base64
import contextlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from cmpolicy.comparison.chart import COLOURS, Line, Points, interval, limits, line_chart, short
from cmpolicy.comparison.interquartile_mean import Estimate, estimate
from cmpolicy.comparison.runs import ABSENT, Group, RunSummary, differing_keys, value_of
from cmpolicy.errors import InputError
from cmpolicy.training.run_directory import RunDirectory

Colours = Mapping[str, int]  # by the label of a group
MOST_POINTS = 150  # of a line of training metrics
LARGEST = 16 * 2**20  # bytes of a file that is embedded
MEDIA = {".mp4": "video/mp4", ".png": "image/png"}
PICTURES = ("panel.png", "samples.png")


def task_section(task: str, groups: Sequence[Group], colours: Colours) -> str:
    """Learning curves and scores of all groups of a task."""
    measure = groups[0].runs[0].measure
    lines = [learning_curve(group, colours[group.label]) for group in groups]
    names = [
        f'<li><span class="key {css(colours, g)}"></span>{escape(g.label)}</li>' for g in groups
    ]
    better = "higher" if measure.higher_is_better else "lower"
    rows = [(g.label, [g.scores("last")], [g.scores("best")]) for g in groups]
    curves = "<p class='quiet'>No evaluations yet.</p>"
    if any(line.points or line.thin for line in lines):
        curves = line_chart(lines, "updates", measure.label, data_levels(groups))
    return (
        f"<section><h2>{escape(task)}</h2><div class='panels'><div class='panel'>{curves}"
        f"<ul class='legend'>{''.join(names)}</ul></div><div class='panel scroll'>"
        f"<h3>{escape(measure.label)}, {better} is better</h3>"
        f"{score_table(rows, colours)}</div></div>{metric_charts(groups, colours)}</section>"
    )


def css(colours: Colours, group: Group) -> str:
    """The class that gives a group its colour."""
    return f"c{colours[group.label] % COLOURS}"


def learning_curve(group: Group, colour: int) -> Line:
    """Interquartile means over runs and their intervals, at the steps that all runs have reached.

    Each single run is a thin line. Unfinished runs count only where no run is finished.
    """
    each = [run for run in group.runs if run.curve]
    curves = [dict(run.curve) for run in each if run.last] or [dict(run.curve) for run in each]
    steps = sorted(set(curves[0]).intersection(*curves[1:])) if curves else []
    rows = [(step, estimate([[curve[step] for curve in curves]])) for step in steps]
    several = len(each) > 1
    return Line(
        group.label,
        [(step, e.mean) for step, e in rows],
        colour,
        [(step, e.low, e.high) for step, e in rows if several and math.isfinite(e.low)],
        [run.curve for run in each] if several else (),
    )


def data_levels(groups: Sequence[Group]) -> list[tuple[str, float]]:
    """The mean of the data in the unit of the scores, if all runs had the same data."""
    key = {"normalized_score": "mean_normalized_score", "mean_return": "mean_return"}
    runs = [run for group in groups for run in group.runs]
    name = key.get(runs[0].measure.key, "")
    means = {(run.results.get("dataset") or {}).get(name) for run in runs}
    (mean, *others) = means
    return [("mean of the data", mean)] if mean is not None and not others else []


def score_table(
    rows: Sequence[tuple[str, list[list[float]], list[list[float]]]], colours: Colours
) -> str:
    """A row a label: interquartile means of last and best scores, given by task."""
    estimates = [(label, last, estimate(last), estimate(best)) for label, last, best in rows]
    scale = limits(value for *_, a, b in estimates for value in (*a, *b))
    body = []
    for label, last, *pair in estimates:
        scores = [score for stratum in last for score in stratum]
        cells = "".join(
            f"<td>{told(e)}{interval(*e, scale, colours[label], filled=i == 0)}</td>"
            for i, e in enumerate(pair)
        )
        mean = f"{fmean(scores):.4g}" if scores else ABSENT
        key = f"<span class='key c{colours[label] % COLOURS}'></span>"
        body.append(
            f"<tr><td class='wide'>{key}{escape(label)}</td>"
            f"<td class='number'>{len(scores)}</td>{cells}<td class='number'>{mean}</td></tr>"
        )
    head = (
        "<th></th><th class='number'>runs</th><th>last, IQM</th><th>best, IQM</th>"
        "<th class='number'>last, mean</th>"
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def told(e: Estimate) -> str:
    """An estimate in a cell."""
    if not math.isfinite(e.mean):
        return ABSENT
    bounds = f" <span class='quiet'>[{e.low:.3g}, {e.high:.3g}]</span>"
    return f"{e.mean:.4g}{bounds if math.isfinite(e.low) else ''}"


def aggregate_section(groups: Sequence[Group], colours: Colours) -> str:
    """Interquartile means over the tasks that all labels share, if there are several of them."""
    by_label: dict[str, dict[str, Group]] = defaultdict(dict)
    for group in groups:
        if group.runs[0].measure.key == "normalized_score" and group.scores("last"):
            by_label[group.label][group.task] = group
    shared = sorted(set.intersection(*map(set, by_label.values()))) if by_label else []
    if len(shared) < 2:
        return ""
    rows = [
        (label, *([own[task].scores(which) for task in shared] for which in ("last", "best")))
        for label, own in by_label.items()
    ]
    return (
        f"<section><h2>Over {len(shared)} tasks</h2><p class='quiet'>Normalised scores of "
        f"{escape(', '.join(shared))}; runs are drawn anew within each task.</p>"
        f"<div class='panel scroll'>{score_table(rows, colours)}</div></section>"  # type: ignore[arg-type]
    )


def metric_charts(groups: Sequence[Group], colours: Colours) -> str:
    """Means over runs of everything in metrics.csv that is no evaluation."""
    charts: dict[str, list[Line]] = defaultdict(list)
    for group in groups:
        for name, points in mean_metrics(group.runs).items():
            charts[name].append(Line(group.label, points, colours[group.label]))
    if not charts:
        return ""
    drawn = (
        f"<div class='panel'><h3>{escape(name)}</h3>{line_chart(lines, 'updates', name)}</div>"
        for name, lines in sorted(charts.items())
    )
    return (
        f"<details><summary>Training: {len(charts)} metrics, means over runs</summary>"
        f"<div class='panels small'>{''.join(drawn)}</div></details>"
    )


def mean_metrics(runs: Sequence[RunSummary]) -> dict[str, Points]:
    """By name, the means over runs at the steps that all of them logged, thinned to MOST_POINTS."""
    tables: list[dict[str, dict[int, float]]] = []
    for run in runs:
        table: dict[str, dict[int, float]] = defaultdict(dict)
        with contextlib.suppress(InputError):
            for row in RunDirectory(run.path).read_metrics():
                step = int(row.pop("step"))
                for name, text in row.items():
                    if text and not name.startswith("eval/"):
                        table[name][step] = float(text)
        tables.append(table)
    means: dict[str, Points] = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        columns = [table[name] for table in tables if name in table]
        steps = sorted(set(columns[0]).intersection(*columns[1:]))
        kept = steps[:: max(1, -(-len(steps) // MOST_POINTS))]
        if kept:
            means[name] = [(step, fmean(column[step] for column in columns)) for step in kept]
    return means


def settings_section(groups: Sequence[Group]) -> str:
    """A row for each key whose values differ between the runs' configurations."""
    runs = [run for group in groups for run in group.runs]
    keys = [key for key in differing_keys(runs) if not key.startswith("env.")]
    if len(groups) < 2 or not keys:
        return ""
    head = "".join(f"<th>{escape(group.task)}<br>{escape(group.label)}</th>" for group in groups)
    rows = []
    for key in keys:
        cells = (", ".join(dict.fromkeys(value_of(run, key) for run in g.runs)) for g in groups)
        row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f"<tr><th>{escape(key)}</th>{row}</tr>")
    return (
        f"<section><h2>What differs</h2><details{' open' if len(keys) <= 12 else ''}><summary>"
        f"{len(keys)} keys of the configurations</summary><div class='panel scroll'><table>"
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        "</details></section>"
    )


def media_section(groups: Sequence[Group]) -> str:
    """The newest films and the pictures of the first run of each group that has some."""
    figures = []
    for group in groups:
        of_runs = (media_of(run.path) for run in group.runs)
        for file in next((files for files in of_runs if files), []):
            figures.append(figure(file, f"{group.task}, {group.label}: {file}"))
    if not figures:
        return ""
    panels = f"<div class='panels small'>{''.join(figures)}</div>"
    return f"<section><h2>Rollouts and samples</h2>{panels}</section>"


def media_of(run: Path) -> list[Path]:
    """The videos of `cmpolicy.evaluate`, the newest one of training, and pictures of samples."""
    newest = sorted(run.glob("videos/*.mp4"), key=lambda file: file.stat().st_mtime)[-1:]
    pictures = [run / name for name in PICTURES if (run / name).is_file()]
    return [*sorted(run.glob("video-*.mp4")), *newest, *pictures]


def figure(file: Path, caption: str) -> str:
    """A film or a picture inside the page."""
    if file.stat().st_size > LARGEST:
        content = f"<p>left out: {file.stat().st_size / 2**20:.0f} MB</p>"
    else:
        data = base64.b64encode(file.read_bytes()).decode()
        url = f"data:{MEDIA[file.suffix]};base64,{data}"
        content = f'<img alt="{escape(caption)}" src="{url}">'
        if file.suffix == ".mp4":
            content = (
                f'<video controls muted loop playsinline preload="metadata" src="{url}"></video>'
            )
    return f"<figure class='panel'>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def runs_section(groups: Sequence[Group]) -> str:
    """A row a run: scores, cost, machine and versions."""
    names = ["run", "task", "method", "seed", "last", "best", "at", "steps", "time", "updates/s"]
    names += ["machine", "versions", "date"]
    numbers = {"seed", "last", "best", "at", "steps", "time", "updates/s"}
    head = "".join(f"<th{' class=number' if n in numbers else ''}>{n}</th>" for n in names)
    rows = []
    for group in groups:
        for run in group.runs:
            cells = zip(names, run_cells(group, run), strict=True)
            row = (f"<td{' class=number' if n in numbers else ''}>{cell}</td>" for n, cell in cells)
            rows.append(f"<tr>{''.join(row)}</tr>")
    return (
        f"<section><h2>Runs</h2><div class='panel scroll'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def run_cells(group: Group, run: RunSummary) -> Iterable[str]:
    """The cells of a run's row, as HTML."""
    results: Mapping[str, Any] = run.results
    last, best = run.last, run.best
    versions = results.get("versions", {})
    reached = last.step if last else max((step for step, _ in run.curve), default=0)
    yield escape(str(run.path))
    yield escape(run.task)
    yield escape(group.label)
    yield escape(str(run.seed))
    for outcome in (last, best):
        error = "" if outcome is None or outcome.error is None else f" ± {outcome.error:.2g}"
        yield f"{outcome.score:.4g}{error}" if outcome else "unfinished"
    yield short(best.step) if best else ABSENT
    yield short(reached)
    yield duration(results.get("wall_seconds"))
    yield f"{results.get('updates_per_second', 0):g}"
    yield escape(str(results.get("machine", ABSENT)))
    yield escape(
        ", ".join(f"{name} {versions[name]}" for name in ("cmpolicy", "torch") if name in versions)
    )
    yield escape(str(results.get("date", ABSENT))[:16].replace("T", " "))


def duration(seconds: float | None) -> str:
    """Hours and minutes."""
    if seconds is None:
        return ABSENT
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes else f"{seconds:.0f} s"
