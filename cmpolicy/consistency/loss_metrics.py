"""Distances between two batches, one value a sample: what a consistency loss measures with."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

Metric = Callable[[Tensor, Tensor], Tensor]  # (B, …), (B, …) → (B,)


def squared(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖² of each sample: (B, …) → (B,)."""
    return (a - b).flatten(1).square().sum(1)


def mean_squared(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖²/d of each sample: (B, …) → (B,)."""
    return (a - b).flatten(1).square().mean(1)


def l1(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖₁ of each sample: (B, …) → (B,)."""
    return (a - b).flatten(1).abs().sum(1)


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """√(‖a − b‖² + c²) − c, c = 0.00054 √d: Song & Dhariwal 2023, eq. 8. (B, …) → (B,)."""
    delta = (a - b).flatten(1)
    c = 0.00054 * math.sqrt(delta.shape[1])
    return (delta.square().sum(1) + c**2).sqrt() - c


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """λ(σ) = (σ² + σ_d²)/(σ σ_d)² = 1/c_out², which makes every level's error in F count the same.

    Karras et al. 2022, Table 1. (B,) → (B,).
    """
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


METRICS: dict[str, Metric] = {
    "squared": squared,
    "mean_squared": mean_squared,
    "l1": l1,
    "pseudo_huber": pseudo_huber,
}


def metric_named(metric: str | Metric) -> Metric:
    """The metric of that name; one that has no name is itself.

    Raises:
        ValueError: if there is none.
    """
    if not isinstance(metric, str):
        return metric
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}, expected one of {', '.join(METRICS)}")
    return METRICS[metric]
