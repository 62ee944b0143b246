"""The figure of multimodality.py: actions at two states, and every measure below them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from multimodality_measure import Array

DATA = "the data itself"
COLOURS = {
    DATA: "0.35",
    "consistency, 1 step": "C0",
    "consistency, 2 steps": "C9",
    "ac's clone, 1 step": "C8",
    "ac's actor, 1 step": "C2",
    "Gaussian": "C1",
    "Gaussian through tanh": "C3",
}


def draw(path: Path, panels: list[dict[str, Array]], result: dict[str, Any]) -> None:
    """States in the two actions that vary most, and below them every measure."""
    columns = [DATA, "consistency, 1 step", "ac's actor, 1 step", "Gaussian"]
    columns += ["Gaussian through tanh"]
    figure = Figure(figsize=(13.5, 3 * len(panels) + 3), layout="constrained")
    grid = figure.add_gridspec(len(panels) + 1, 5, height_ratios=[3] * len(panels) + [2.3])
    for i, actions in enumerate(panels):
        recorded = actions[DATA]
        x, y = (int(axis) for axis in np.sort(np.argsort(recorded.var(0))[-2:]))
        for j, name in enumerate(columns):
            axes = figure.add_subplot(grid[i, j])
            axes.scatter(recorded[:, x], recorded[:, y], s=90, color="0.88", clip_on=False)
            drawn = actions[name]
            axes.scatter(
                drawn[:, x], drawn[:, y], s=16, alpha=0.5, color=COLOURS[name], linewidths=0,
                clip_on=False, zorder=3,
            )  # fmt: skip
            axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xlabel=f"action {x + 1}")
            axes.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1))
            axes.set_ylabel(f"action {y + 1}" if j == 0 else "")
            if i == 0:
                axes.set_title(name + ("" if name == DATA else "\non the data (grey)"), fontsize=10)
            if j == 0:
                axes.annotate(
                    f"state {'AB'[i]}", (-0.42, 0.5), xycoords="axes fraction", rotation=90,
                    va="center", weight="bold",
                )  # fmt: skip
    below = grid[len(panels), :].subgridspec(1, 4)
    for j, name in enumerate(("recall", "precision", "both modes", "energy")):
        bars(figure.add_subplot(below[j]), name, result["rows"], labelled=j == 0)
    figure.savefig(path, dpi=120)


def bars(axes: Any, name: str, rows: list[dict[str, Any]], labelled: bool) -> None:
    """One measure at states of two modes, a bar a policy."""
    for i, r in enumerate(reversed(rows)):
        mean, half = r[f"two modes: {name}"]
        axes.barh(i, mean, color=COLOURS[r["name"]], xerr=half or None)
        axes.text(max(mean, 0) + half, i, f" {mean:.2f}", va="center", fontsize=8)
    labels = [r["name"] for r in reversed(rows)] if labelled else [""] * len(rows)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_xlabel("at states of two modes", fontsize=8)
    axes.margins(x=0.2)
    axes.set_title(name + (", lower is better" if name == "energy" else ""), fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
