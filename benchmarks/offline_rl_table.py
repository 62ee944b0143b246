"""The table and the picture of `offline_rl.py`, from its rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from offline_rl_rows import JUMPS_BETWEEN, LAST_EVALUATIONS, Row, read_rows
from scipy.stats import DegenerateDataWarning, bootstrap, trim_mean

MISSING = "missing"
Value = Callable[[Row], float]


class Shown(NamedTuple):
    """What a table shows: sets, of which the first `averaged` are averaged, agents, seeds."""

    sets: list[str]
    averaged: int
    agents: list[str]
    seeds: int


def report(
    table: Path,
    sets: list[str],
    agents: list[str],
    seeds: int,
    protocol: str,
    averaged: Sequence[str],
) -> None:
    """OUT/NAME.md and OUT/NAME.png from OUT/NAME.csv.

    Args:
        sets, agents: what was asked for; others that have rows are added. The agent with the best
            scores comes first.
        seeds: asked for. A cell of fewer or of more says so.
        protocol: in words.
        averaged: the protocol's sets, which come first; an average is over those that are there,
            and over all where none is.
    """
    rows = read_rows(table)
    there = dict.fromkeys([*sets, *(row.set for row in rows)])
    sets = [*(s for s in averaged if s in there), *(s for s in there if s not in averaged)]
    agents = list(dict.fromkeys([*agents, *(row.agent for row in rows)]))
    agents.sort(key=lambda agent: -mean_score(rows, agent, averaged))
    shown = Shown(sets, len([s for s in sets if s in averaged]) or len(sets), agents, seeds)
    blocks = [
        *heading(rows, protocol, seeds),
        *block("Score of the protocol", rows, shown, lambda r: r.score, iqm=True),
        *block("Last checkpoint", rows, shown, lambda r: r.last),
        *block("Best checkpoint", rows, shown, lambda r: r.best),
        *instability(rows, shown),
        *wall_clock(rows, sets, agents),
        *footing(rows, sets),
    ]
    table.with_suffix(".md").write_text("\n".join(blocks) + "\n")
    draw(table.with_suffix(".png"), rows, sets, agents)


def mean_score(rows: list[Row], agent: str, sets: Sequence[str]) -> float:
    """Over those of the sets that it has rows of; −∞ where it has none."""
    found = [[r.score for r in rows if (r.set, r.agent) == (s, agent)] for s in sets]
    return float(np.mean([np.mean(scores) for scores in found if scores] or [-math.inf]))


def heading(rows: list[Row], protocol: str, seeds: int) -> list[str]:
    """What the numbers are."""
    comparable = all(row.comparable for row in rows)
    return [
        "# Offline RL",
        "",
        f"Protocol {protocol}; {seeds} seed{'s' if seeds > 1 else ''} where a cell says no "
        "other number, ± the standard error over them. Normalised with D4RL's reference returns"
        + ("." if comparable else "; not all data are D4RL's, whose scores compare in here alone."),
        f"The score is the mean of a run's last {LAST_EVALUATIONS} evaluations. Last and best "
        "checkpoint were evaluated again, on fresh episodes; the best is chosen by its "
        "evaluation during training.",
    ]


def block(title: str, rows: list[Row], shown: Shown, value: Value, iqm: bool = False) -> list[str]:
    """A table: an agent a row, a set a column, their average, and the interquartile mean.

    Sets that are not averaged stand behind the average.
    """
    inner, outer = shown.sets[: shown.averaged], shown.sets[shown.averaged :]
    more = ["average", *(["IQM [95 % interval]"] if iqm else [])]
    lines = ["", f"## {title}", "", *header(["agent", *inner, *more, *outer])]
    means = [[r.data_mean for r in rows if r.set == s][:1] for s in shown.sets]
    data = [f"{m[0]:.1f}" if m else MISSING for m in means]
    data[len(inner) : len(inner)] = [""] * len(more)
    lines.append(line(["data's mean", *data]))
    for agent in shown.agents:
        found = [[value(r) for r in rows if (r.set, r.agent) == (s, agent)] for s in shown.sets]
        cells = [cell(values, shown.seeds) for values in found]
        own = found[: len(inner)]
        cells[len(inner) : len(inner)] = [average(own), *([interquartile(own)] if iqm else [])]
        lines.append(line([agent, *cells]))
    return lines


def instability(rows: list[Row], shown: Shown) -> list[str]:
    """By how much the last checkpoints of a run differ, where that was measured."""
    measured = [row for row in rows if not math.isnan(row.instability)]
    if not measured:
        return []
    title = f"Jump from one to the next of the last {JUMPS_BETWEEN} evaluations, beyond their noise"
    return block(title, measured, shown, lambda r: r.instability)


def header(names: Sequence[str]) -> list[str]:
    return [line(names), "|" + "---|" * len(names)]


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def cell(values: list[float], seeds: int) -> str:
    """Mean ± standard error over seeds; what is not there is missing, never zero."""
    if not values:
        return MISSING
    there = len(values)
    note = f" ({there}{f' of {seeds}' if there < seeds else ''} seeds)" if there != seeds else ""
    mean, error = float(np.mean(values)), standard_error(values)
    return f"{mean:.1f}{'' if math.isnan(error) else f' ± {error:.1f}'}{note}"


def standard_error(values: list[float]) -> float:
    """Of the mean; NaN for a single value."""
    if len(values) < 2:
        return math.nan
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def average(found: list[list[float]]) -> str:
    """Mean over sets ± its standard error; missing where a set is."""
    if not all(found):
        return MISSING
    error = math.sqrt(sum(standard_error(values) ** 2 for values in found)) / len(found)
    mean = float(np.mean([np.mean(values) for values in found]))
    return f"{mean:.1f}{'' if math.isnan(error) else f' ± {error:.1f}'}"


def interquartile(found: list[list[float]]) -> str:
    """Interquartile mean over all runs and its interval, by a bootstrap of seeds set by set.

    Agarwal et al. 2021; SciPy's percentile bootstrap, whose several samples are the strata.
    """
    if not all(found):
        return MISSING
    samples = [np.array(values) for values in found]
    point = f"{float(iqm_of(*samples)):.1f}"
    if min(len(values) for values in found) < 2:
        return point
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        interval = bootstrap(
            samples, iqm_of, n_resamples=5_000, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
    return f"{point} [{interval.low:.1f}, {interval.high:.1f}]"


def iqm_of(*samples: npt.NDArray[np.float64], axis: int = -1) -> Any:
    """Mean of the middle half of all values."""
    return trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)


def wall_clock(rows: list[Row], sets: list[str], agents: list[str]) -> list[str]:
    """Minutes of a whole run with its evaluations, and updates a second: a table a processor."""
    lines = []
    for processor in dict.fromkeys(map(processor_of, rows)):
        title = f"Wall-clock on {processor}: minutes a seed, evaluations included"
        lines += ["", f"## {title} (updates a second, each of all seeds at once)", ""]
        lines += wall_clock_on([r for r in rows if processor_of(r) == processor], sets, agents)
    return lines


def processor_of(row: Row) -> str:
    """The GPU's name, or the CPU's without its generation."""
    machine, _, device = row.machine.rpartition("; ")
    return machine.partition(",")[0].partition(" (family")[0] if device == "cpu" else device


def wall_clock_on(rows: list[Row], sets: list[str], agents: list[str]) -> list[str]:
    lines = header(["agent", *sets])
    there = {r.agent for r in rows}
    for agent in (a for a in agents if a in there):
        cells = []
        for name in sets:
            mine = [r for r in rows if (r.set, r.agent) == (name, agent)]
            walls = [r.wall_seconds for r in mine if not math.isnan(r.wall_seconds)]
            minutes = f"{np.mean(walls) / 60:.1f}" if walls else MISSING
            speeds = [r.updates_per_second for r in mine]
            cells.append(f"{minutes} ({np.mean(speeds):.0f})" if mine else MISSING)
        lines.append(line([agent, *cells]))
    return lines


def footing(rows: list[Row], sets: list[str]) -> list[str]:
    """Data, environments, machines, versions and dates."""
    lines = ["", "## How", ""]
    for name in sets:
        mine = [r for r in rows if r.set == name]
        said = {f"{r.dataset}, {r.transitions:,} transitions, {r.environment}" for r in mine}
        lines.append(f"- {name}: {'; '.join(sorted(said)) or MISSING}")
    versions = dict.fromkeys(v for row in rows for v in row.versions.split())
    dates = sorted(row.date[:10] for row in rows)
    lines += [
        f"- machine: {'; '.join(dict.fromkeys(row.machine for row in rows))}",
        f"- versions: {', '.join(versions)}",
        f"- written by `benchmarks/offline_rl.py` from {len(rows)} runs, {dates[0]} to {dates[-1]}",
    ]
    return lines


def draw(path: Path, rows: list[Row], sets: list[str], agents: list[str]) -> None:
    """Learning curves: a panel a set, a line an agent, seeds as a band of standard error."""
    from matplotlib.figure import Figure

    columns = min(3, len(sets))
    height = math.ceil(len(sets) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * height + 0.5), layout="constrained")
    panels = figure.subplots(height, columns, squeeze=False).flat
    for name, axes in zip(sets, panels, strict=False):  # this way round no panel is lost
        for number, agent in enumerate(agents):
            curves = [r.points() for r in rows if (r.set, r.agent) == (name, agent)]
            draw_curve(axes, curves, f"C{number % 10}", agent)
        for mean in [r.data_mean for r in rows if r.set == name][:1]:
            axes.axhline(mean, color="0.4", linestyle="--", linewidth=1, label="data's mean")
        axes.set(title=name, xlabel="updates", ylabel="normalised score")
        axes.grid(alpha=0.3)
    for axes in panels:  # what is left of the grid
        axes.set_axis_off()
    labels: dict[str, Any] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        labels.update(zip(names, handles, strict=True))
    figure.legend(
        labels.values(), labels.keys(), loc="outside lower center", ncols=6, frameon=False
    )
    figure.savefig(path, dpi=120)


def draw_curve(axes: Any, curves: list[list[tuple[int, float]]], colour: str, label: str) -> None:
    """One agent on one set; steps that not every seed has are left out."""
    if not curves:
        return
    shared = sorted(set.intersection(*({step for step, _ in curve} for curve in curves)))
    scores = np.array([[dict(curve)[step] for step in shared] for curve in curves])
    mean = scores.mean(0)
    axes.plot(shared, mean, color=colour, linewidth=1.3, label=label)
    if len(curves) > 1:
        error = scores.std(0, ddof=1) / math.sqrt(len(curves))
        axes.fill_between(shared, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
