"""Draw pictures of toy runs as PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure

from cmpolicy.array_types import DoubleArray

Scores = Mapping[str, Mapping[str, float]]  # row ("1 step") to column ("w1") to number

TRUTH, MODEL, NOISE, PATHS = "#1a1a1a", "#3b7dd8", "#8c8c8c", "viridis"
HEADINGS = {
    "w1": "W1", "w2": "W2", "sliced_w2": "sliced\nW2", "mmd": "MMD", "kl": "KL\ntrue‖model",
    "kl_reverse": "KL\nmodel‖true", "std_ratio": "std\nratio",
}  # fmt: skip
DPI = 130
MAX_PATHS = 90
BINS = 100


@dataclass(frozen=True)
class Density:
    """The true density p (G,) on an ascending grid x (G,)."""

    x: DoubleArray
    p: DoubleArray

    @classmethod
    def on_grid(cls, density: Any, low: float, high: float, points: int = 600) -> Density:
        """Evaluate `density`, a function of (G, 1) like `Toy.density`, on an even grid."""
        x = np.linspace(low, high, points)
        return cls(x, np.asarray(density(x[:, None]), dtype=np.float64))


@dataclass(frozen=True)
class Paths:
    """Positions (S, P) of P points at decreasing noise levels (S,); the last may be 0."""

    levels: DoubleArray
    positions: DoubleArray


def draw_toy_panel(
    path: Path,
    paths: Mapping[str, Paths],
    samples: Any,
    truth: Density,
    scores: Scores,
    *,
    title: str,
    sigma_data: float,
    center: float = 0.0,
) -> None:
    """Draw a run in one dimension: paths of points, one-step samples over the density, scores.

    Args:
        paths: by title, such as "consistency, 4 steps", in two columns.
        samples: one-step samples, (N,) or (N, 1).
        scores: a table, rows from top to bottom.
        sigma_data, center: standard deviation and mean of the data, which scale the axes.
    """
    rows = max(1, -(-len(paths) // 2))
    figure = Figure(figsize=(16.5, 3.7 * max(rows, 2)), layout="constrained")
    figure.suptitle(title, fontsize=14)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(2.1, 1), wspace=0.03)[0]
    cells = left.subfigures(rows, 2, squeeze=False, wspace=0.03, hspace=0.04).ravel()
    for cell, (name, one) in zip(cells, paths.items(), strict=False):
        _draw_paths(cell, name, one, truth, sigma_data, center)
    histogram, table = right.subplots(2, 1, height_ratios=(1.6, 1))
    _draw_histogram(histogram, _flat(samples), truth)
    histogram.set_title("one step", fontsize=11)
    histogram.set_xlabel("x")
    histogram.legend(frameon=False, fontsize=9, loc="upper right")
    histogram.set_ylim(top=1.25 * histogram.get_ylim()[1])
    _draw_table(table, scores)
    figure.savefig(path, dpi=DPI)


def draw_toy_panel_2d(
    path: Path, truth: Any, samples: Mapping[str, Any], scores: Scores, *, title: str
) -> None:
    """Draw a run in two dimensions: true points (N, 2), samples (N, 2) by name, and scores."""
    clouds = {name: np.asarray(xy, np.float64) for name, xy in {"truth": truth, **samples}.items()}
    low, high = clouds["truth"].min(0), clouds["truth"].max(0)
    middle, reach = (low + high) / 2, 0.58 * float((high - low).max())
    figure = Figure(figsize=(3.5 * len(clouds), 4.8 + 0.24 * len(scores)), layout="constrained")
    figure.suptitle(title, fontsize=14)
    heights = (3.7, 0.8 + 0.24 * len(scores))
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, points) in zip(top.subplots(1, len(clouds)), clouds.items(), strict=True):
        size = float(np.clip(15_000 / len(points), 0.5, 8))
        colour = TRUTH if name == "truth" else MODEL
        axes.scatter(*points.T, s=size, c=colour, alpha=0.35, linewidths=0, rasterized=True)
        axes.set_xlim(middle[0] - reach, middle[0] + reach)
        axes.set_ylim(middle[1] - reach, middle[1] + reach)
        axes.set_aspect("equal")
        axes.set_title(name, fontsize=11)
        axes.tick_params(labelsize=8, color="0.6")
        axes.spines[:].set_color("0.8")
        outside = 1 - np.all(np.abs(points - middle) <= reach, axis=1).mean()
        if outside > 0.0005:
            axes.text(0.98, 0.02, f"{outside:.1%} outside", transform=axes.transAxes, ha="right",
                      fontsize=8, color="0.4")  # fmt: skip
    _draw_table(bottom.subplots(), scores)
    figure.savefig(path, dpi=DPI)


def draw_histograms(
    path: Path,
    samples: Mapping[str, Mapping[str, Any]],
    truths: Mapping[str, Density],
    *,
    title: str,
) -> None:
    """Draw a grid of small histograms over the true density.

    Args:
        samples: by row, then by column, (N,) or (N, 1).
        truths: by column.
    """
    shape = (len(samples), len(truths))
    figure = Figure(figsize=(3.1 * shape[1] + 0.5, 1.55 * shape[0] + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=13)
    grid = figure.subplots(*shape, squeeze=False, sharex="col", sharey="col")
    for row, (name, cells) in zip(grid, samples.items(), strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11, labelpad=10)
        for axes, (column, truth) in zip(row, truths.items(), strict=True):
            axes.tick_params(labelsize=8)
            _draw_histogram(axes, _flat(cells[column]), truth, bins=70)
            axes.set_ylim(0, 1.4 * truth.p.max())
    for axes, column in zip(grid[0], truths, strict=True):
        axes.set_title(column, fontsize=11)
    figure.savefig(path, dpi=DPI)


def draw_bandit(
    path: Path, actions: Mapping[str, Any], grid: Any, reward: Any, *, title: str
) -> None:
    """Draw actions (N,) in [−1, 1] of each policy by name, over the reward (G,) on a grid (G,)."""
    figure = Figure(figsize=(7.5, 1.7 * len(actions) + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=13)
    rows = figure.subplots(len(actions), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (name, values) in zip(rows, actions.items(), strict=True):
        height = axes.hist(_flat(values), bins=np.linspace(-1, 1, BINS + 1), density=True,
                           color=MODEL, alpha=0.75, label="actions")[0]  # fmt: skip
        scale = 0.9 * float(np.max(height)) / float(np.max(_flat(reward)))
        axes.plot(_flat(grid), scale * _flat(reward), color=TRUTH, lw=1.2, label="reward (scaled)")
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
        axes.set(yticks=[], xlim=(-1, 1))
        axes.spines[["left", "top", "right"]].set_visible(False)
    rows[0].legend(frameon=False, fontsize=9, loc="upper center")
    rows[-1].set_xlabel("action")
    figure.savefig(path, dpi=DPI)


def _draw_paths(
    cell: SubFigure, name: str, paths: Paths, truth: Density, sigma_data: float, center: float
) -> None:
    """Draw the density of the noise, paths from σ_max to 0, and samples over the true density.

    Points are drawn at center + (x − center) σ_d/√(σ² + σ_d²), as in TrigFlow (Lu & Song 2024):
    noise is as wide as the data, and data stays where it is. The axis of σ is arctan(3σ/σ_d),
    because modes separate late.
    """
    noise, middle, data = cell.subplots(1, 3, sharey=True, width_ratios=(0.28, 1, 0.42))
    cell.suptitle(name, fontsize=11)
    low = min(truth.x[0], center - 3.2 * sigma_data)
    high = max(truth.x[-1], center + 3.2 * sigma_data)
    scale = sigma_data / np.hypot(paths.levels, sigma_data)
    places = center + (paths.positions - center) * scale[:, None]
    time = np.arctan2(3 * paths.levels, sigma_data)

    y = np.linspace(low, high, 300)
    bell = np.exp(-0.5 * ((y - center) / sigma_data) ** 2) / (sigma_data * np.sqrt(2 * np.pi))
    noise.fill_betweenx(y, -bell, 0, color=NOISE, alpha=0.35, lw=0)
    noise.plot(-bell, y, color=NOISE, lw=1.2)
    noise.set_xlim(-1.15 * bell.max(), 0)

    chosen = places[:, :: -(-places.shape[1] // MAX_PATHS)]
    lines = [np.stack((time, track), axis=1) for track in chosen.T]
    bundle = LineCollection(lines, cmap=PATHS, linewidths=0.7, alpha=0.75)
    bundle.set_array(chosen[-1])
    bundle.set_clim(*np.percentile(places[-1], (1, 99)))
    middle.add_collection(bundle)
    middle.set_xlim(time[0], 0)
    middle.set_ylim(low, high)
    ticks = [paths.levels[0], *(s for s in (2, 1, 0.5, 0.2, 0.1, 0) if s < paths.levels[0] / 3)]
    places_of_ticks = np.arctan2(3 * np.array(ticks), sigma_data)
    middle.set_xticks(places_of_ticks, [f"{s:g}" for s in ticks], fontsize=8)
    middle.set_xlabel("σ", fontsize=9, labelpad=1)

    _draw_histogram(data, places[-1], truth, upright=False, bins=70)
    noise.set_xticks([])
    for axes in (noise, middle, data):
        axes.spines[:].set_visible(False)
        axes.tick_params(axis="y", length=0, labelsize=8, labelleft=axes is noise)


def _draw_histogram(
    axes: Axes, samples: DoubleArray, truth: Density, *, upright: bool = True, bins: int = BINS
) -> None:
    """Draw the density of samples over the true density; samples off its grid are left out."""
    low, high = float(truth.x[0]), float(truth.x[-1])
    inside = samples[(samples >= low) & (samples <= high)]
    weights = np.full(len(inside), bins / ((high - low) * len(samples)))
    axes.hist(inside, bins=bins, range=(low, high), weights=weights, color=MODEL, alpha=0.6,
              orientation="vertical" if upright else "horizontal", label="samples")  # fmt: skip
    line = (truth.x, truth.p) if upright else (truth.p, truth.x)
    axes.plot(*line, color=TRUTH, lw=1.3, label="true density")
    if upright:
        axes.set_xlim(low, high)
    axes.set_yticks([]) if upright else axes.set_xticks([])
    axes.spines[["left", "top", "right"]].set_visible(False)


def _draw_table(axes: Axes, scores: Scores) -> None:
    """Draw numbers, with a rule below the headings."""
    axes.set_axis_off()
    columns = list(next(iter(scores.values())))
    cells = [
        ["", *(HEADINGS.get(c, c) for c in columns)],
        *([row, *(f"{values[c]:.3f}" for c in columns)] for row, values in scores.items()),
    ]
    across = np.linspace(0.0, 1.0, len(columns) + 2)[1:]
    down = np.linspace(0.9, 0.1, len(cells)) if len(cells) > 2 else np.array([0.7, 0.3])
    for i, (y, line) in enumerate(zip(down, cells, strict=True)):
        for x, word in zip(across, line, strict=True):
            axes.text(x, y, word, ha="right", va="center", fontsize=10,
                      color="0.35" if i == 0 else TRUTH, transform=axes.transAxes)  # fmt: skip
    rule = (down[0] + down[1]) / 2
    axes.plot([0.02, 1.0], [rule, rule], color="0.6", lw=0.8, transform=axes.transAxes)


def _flat(values: Any) -> DoubleArray:
    return np.asarray(values, dtype=np.float64).ravel()
