"""Pictures of toy runs: arrays in, a PNG out."""

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
from cmpolicy.errors import InputError

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
    """The true density on a grid: x (G,) ascending, p (G,)."""

    x: DoubleArray
    p: DoubleArray


@dataclass(frozen=True)
class Paths:
    """How samples came about: levels (S,) decreasing σ, positions (S, P) of P points at each.

    The last level may be 0. `samples` (N,) are those of the histogram, by default the last
    positions.
    """

    levels: DoubleArray
    positions: DoubleArray
    samples: DoubleArray | None = None

    def __post_init__(self) -> None:
        if self.positions.ndim != 2 or len(self.positions) != len(self.levels):
            raise InputError(
                f"positions has shape {self.positions.shape}, expected (S, P) with a row for each "
                f"of the {len(self.levels)} levels"
            )
        if len(self.levels) < 2 or not (np.diff(self.levels) < 0).all() or self.levels[-1] < 0:
            raise InputError("levels must decrease, be at least two, and end at 0 or above")


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
    samples_title: str = "one step",
) -> None:
    """A run in one dimension: how points travel, the samples over the density, the scores.

    Args:
        paths: title to paths, drawn in two columns ("teacher, Euler", "consistency, 4 steps").
        samples: (N,) or (N, 1), the large histogram.
        scores: row to column to number, rows from top to bottom.
        sigma_data, center: standard deviation and mean of the data; the axes are scaled by them.
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
    histogram.set_title(samples_title, fontsize=11)
    histogram.set_xlabel("x")
    histogram.legend(frameon=False, fontsize=9, loc="upper right")
    histogram.set_ylim(top=1.25 * histogram.get_ylim()[1])
    _draw_table(table, scores)
    figure.savefig(path, dpi=DPI)


def draw_toy_panel_2d(
    path: Path, truth: Any, samples: Mapping[str, Any], scores: Scores, *, title: str
) -> None:
    """A run in two dimensions: the truth (N, 2), samples (N, 2) by name, and the scores."""
    clouds = {"truth": _plane("truth", truth)}
    clouds |= {name: _plane(name, points) for name, points in samples.items()}
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


def draw_toy_comparison(
    path: Path,
    samples: Mapping[str, Mapping[str, Any]],
    truths: Mapping[str, Density],
    captions: Mapping[str, Mapping[str, str]],
    *,
    title: str,
) -> None:
    """A row for each loss and a column for each toy: small histograms over the true density.

    Args:
        samples: loss to toy to (N,) or (N, 1); a toy that a loss lacks leaves its cell empty.
        truths: toy to density; its order is that of the columns.
        captions: loss to toy to the words in the corner, such as "W1 0.021 ± 0.003".
    """
    shape = (len(samples), len(truths))
    figure = Figure(figsize=(3.1 * shape[1] + 0.5, 1.55 * shape[0] + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=13)
    grid = figure.subplots(*shape, squeeze=False, sharex="col", sharey="col")
    for row, (loss, cells) in zip(grid, samples.items(), strict=True):
        row[0].set_ylabel(loss, rotation=0, ha="right", va="center", fontsize=11, labelpad=10)
        for axes, (toy, truth) in zip(row, truths.items(), strict=True):
            axes.set_yticks([])
            axes.spines[["left", "top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
            if toy not in cells:
                axes.text(
                    0.5, 0.5, "–", transform=axes.transAxes, ha="center", color="0.5", fontsize=12
                )
                continue
            _draw_histogram(axes, _flat(cells[toy]), truth, bins=70)
            axes.set_ylim(0, 1.4 * truth.p.max())
            caption = captions.get(loss, {}).get(toy, "")
            axes.text(0.99, 0.97, caption, transform=axes.transAxes, ha="right", va="top",
                      fontsize=9)  # fmt: skip
    for axes, toy in zip(grid[0], truths, strict=True):
        axes.set_title(toy, fontsize=11)
    figure.savefig(path, dpi=DPI)


def draw_bandit(
    path: Path, actions: Mapping[str, Any], grid: Any, reward: Any, *, title: str
) -> None:
    """Actions (N,) in [−1, 1] of each policy by name, over the reward (G,) on a grid (G,)."""
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
    """Density of the noise, paths from σ_max to 0, samples beside the true density.

    Points are drawn at center + (x − center) σ_d/√(σ² + σ_d²), where TrigFlow has them (Lu & Song
    2024): noise is as wide as the data, and data stays where it is. The axis of σ is
    arctan(3σ/σ_d), because modes part late.
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

    samples = _flat(places[-1] if paths.samples is None else paths.samples)
    _draw_histogram(data, samples, truth, orientation="horizontal", bins=70)
    for axes in (noise, data):
        axes.set_xticks([])
    for axes in (noise, middle, data):
        axes.spines[:].set_visible(False)
        axes.tick_params(axis="y", length=0, labelsize=8, labelleft=axes is noise)


def _draw_histogram(
    axes: Axes, samples: DoubleArray, truth: Density, *, orientation: str = "vertical",
    bins: int = BINS,
) -> None:  # fmt: skip
    """Samples as a share of all, those outside the density's grid not shown, over the density."""
    low, high = float(truth.x[0]), float(truth.x[-1])
    inside = samples[(samples >= low) & (samples <= high)]
    weights = np.full(len(inside), bins / ((high - low) * len(samples)))
    upright = orientation == "vertical"
    axes.hist(inside, bins=bins, range=(low, high), weights=weights, color=MODEL, alpha=0.6,
              orientation="vertical" if upright else "horizontal", label="samples")  # fmt: skip
    line = (truth.x, truth.p) if upright else (truth.p, truth.x)
    axes.plot(*line, color=TRUTH, lw=1.3, label="true density")
    if upright:
        axes.set_xlim(low, high)
    axes.set_yticks([]) if upright else axes.set_xticks([])
    axes.spines[["left", "top", "right"]].set_visible(False)


def _draw_table(axes: Axes, scores: Scores) -> None:
    """Numbers with a rule below the headings."""
    axes.set_axis_off()
    if not scores:
        return
    columns = list(next(iter(scores.values())))
    cells = [
        ["", *(HEADINGS.get(c, c) for c in columns)],
        *([row, *(_number(values.get(c)) for c in columns)] for row, values in scores.items()),
    ]
    across = np.linspace(0.0, 1.0, len(columns) + 2)[1:]
    down = np.linspace(0.9, 0.1, len(cells)) if len(cells) > 2 else np.array([0.7, 0.3])
    for i, (y, line) in enumerate(zip(down, cells, strict=True)):
        for x, word in zip(across, line, strict=True):
            axes.text(x, y, word, ha="right", va="center", fontsize=10,
                      color="0.35" if i == 0 else TRUTH, transform=axes.transAxes)  # fmt: skip
    rule = (down[0] + down[1]) / 2
    axes.plot([0.02, 1.0], [rule, rule], color="0.6", lw=0.8, transform=axes.transAxes)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _flat(values: Any) -> DoubleArray:
    array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if array.size == 0 or array.size != array.shape[0] or not np.isfinite(array).all():
        raise InputError(f"got values of shape {array.shape}, expected (N,) or (N, 1), all finite")
    return array.ravel()


def _plane(name: str, values: Any) -> DoubleArray:
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise InputError(f"{name} has shape {points.shape}, expected (N, 2)")
    if not np.isfinite(points).all():
        raise InputError(f"{name} holds NaN or inf, expected finite points")
    return points


def density_on_grid(density: Any, low: float, high: float, points: int = 600) -> Density:
    """`density`, a function of (G, 1) as `Toy.density`, at `points` places from low to high."""
    x = np.linspace(low, high, points)
    return Density(x, np.asarray(density(x[:, None]), dtype=np.float64))
