"""The interquartile mean of scores with its bootstrap interval (Agarwal et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
RESAMPLINGS = 2_000  # as the paper has them for intervals
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """An interquartile mean and its interval, which is (NaN, NaN) for a single run a task."""

    mean: float
    low: float
    high: float


def interquartile_mean(scores: Scores) -> Scores:
    """Mean of the middle half of the last axis: (…, n) → (…).

    A quarter of n, rounded down, is cut at each end, so up to three scores are all counted.
    """
    n = scores.shape[-1]
    cut = n // 4
    middle: Scores = np.sort(scores, axis=-1)[..., cut : n - cut].mean(-1)
    return middle


def estimate(strata: Sequence[Sequence[float]]) -> Estimate:
    """The interquartile mean over all runs of all tasks, and its stratified bootstrap interval.

    Args:
        strata: the scores of each task's runs. Runs are drawn with replacement within each task,
            as often as it has runs; the interval holds the middle `CONFIDENCE` of RESAMPLINGS.
    """
    rows = [np.asarray(scores, dtype=np.float64) for scores in strata if len(scores)]
    if not rows:
        return Estimate(np.nan, np.nan, np.nan)
    mean = float(interquartile_mean(np.concatenate(rows)))
    if max(map(len, rows)) == 1:
        return Estimate(mean, np.nan, np.nan)
    rng = np.random.default_rng(0)
    drawn = [row[rng.integers(len(row), size=(RESAMPLINGS, len(row)))] for row in rows]
    means = interquartile_mean(np.concatenate(drawn, axis=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(mean, float(low), float(high))
