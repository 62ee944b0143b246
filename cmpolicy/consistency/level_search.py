"""A search for the levels of multistep sampling, against any scalar."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def ternary_search(
    objective: Callable[[float], float], low: float, high: float, evaluations: int = 20
) -> float:
    """The minimum of a unimodal function on [low, high], which two evaluations narrow by a third.

    Returns:
        The best point that was evaluated.
    """
    tried: list[tuple[float, float]] = []

    def value(point: float) -> float:
        tried.append((objective(point), point))
        return tried[-1][0]

    for _ in range(evaluations // 2):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if value(left) <= value(right):
            high = right
        else:
            low = left
    return min(tried)[1]


def greedy_levels(
    objective: Callable[[list[float]], float],
    sigma_max: float,
    sigma_min: float,
    steps: int,
    evaluations: int = 20,
) -> list[float]:
    """σ₁ = σ_max, then one level after the other: Song et al. 2023, §4.3, greedy ternary search.

    Each next level is looked for below the ones before it, in ln σ, while they stay; a level that
    does not improve the objective ends the search, so the list may be shorter than `steps`.

    Args:
        objective: a decreasing list of levels → what is to be small, such as W1 or FID. Give it a
            fixed seed: it is compared between levels.
    """
    levels = [sigma_max]
    best = objective(levels)
    while len(levels) < steps:
        known: Sequence[float] = tuple(levels)
        point = ternary_search(
            lambda log_sigma, known=known: objective([*known, math.exp(log_sigma)]),  # type: ignore[misc]
            math.log(sigma_min),
            math.log(levels[-1]),
            evaluations,
        )
        candidate = [*levels, math.exp(point)]
        score = objective(candidate)
        if score >= best:
            break
        levels, best = candidate, score
    return levels
