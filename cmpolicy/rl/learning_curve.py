"""The picture of a run: its score over updates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def draw_learning_curve(
    path: Path,
    steps: Sequence[int],
    scores: Sequence[float],
    errors: Sequence[float],
    *,
    title: str,
    ylabel: str,
    data_mean: float | None = None,
    online_from: int | None = None,
) -> None:
    """Draw scores with their standard errors to a PNG.

    Lines mark the mean of the data, and where the agent begins to act in the environment.
    """
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    low = [s - e for s, e in zip(scores, errors, strict=True)]
    high = [s + e for s, e in zip(scores, errors, strict=True)]
    axes.fill_between(steps, low, high, alpha=0.2, color="C0", linewidth=0)
    axes.plot(steps, scores, "o-", color="C0", markersize=3, label="policy ± standard error")
    if data_mean is not None:
        axes.axhline(data_mean, color="0.4", linestyle="--", label="mean of the data's episodes")
    if online_from is not None:
        axes.axvline(online_from, color="C1", linestyle=":", label="online from here")
    axes.set(xlabel="updates", ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
