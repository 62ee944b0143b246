"""Steps and samplers of the probability-flow ODE dx/dσ = (x − D(x, σ))/σ: Karras et al. 2022."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from cmpolicy.consistency.parameterization import LevelFunction, expand_as
from cmpolicy.consistency.randomness import Generators, normal_like

Step = Callable[[LevelFunction, Tensor, Tensor, Tensor], Tensor]


def slope(denoiser: LevelFunction, x: Tensor, sigma: Tensor) -> Tensor:
    """dx/dσ = (x − D(x, σ))/σ: Karras et al. 2022, eq. 4 with σ(t) = t. (B, …), (B,) → (B, …)."""
    return (x - denoiser(x, sigma)) / expand_as(sigma, x)


def euler_step(denoiser: LevelFunction, x: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
    """x + (σ' − σ) dx/dσ, first order; `sigma` and `to` are (B,)."""
    return x + expand_as(to - sigma, x) * slope(denoiser, x, sigma)


def heun_step(denoiser: LevelFunction, x: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
    """The trapezoid of the slopes at both ends, second order: Karras et al. 2022, Algorithm 1.

    Where `to` is 0 the slope there does not exist, and the step is Euler's.
    """
    d = slope(denoiser, x, sigma)
    predicted = x + expand_as(to - sigma, x) * d
    positive = to > 0
    d_end = slope(denoiser, predicted, torch.where(positive, to, sigma))
    d_mean = torch.where(expand_as(positive, x), (d + d_end) / 2, d)
    return x + expand_as(to - sigma, x) * d_mean


SOLVERS: dict[str, Step] = {"euler": euler_step, "heun": heun_step}


def solve(
    denoiser: LevelFunction,
    noise: Tensor,
    levels: Sequence[float],
    solver: str = "heun",
    **churn: Any,
) -> Tensor:
    """Where `trajectory` ends: samples (B, …)."""
    return trajectory(denoiser, noise, levels, solver, **churn)[-1]


def trajectory(
    denoiser: LevelFunction,
    noise: Tensor,
    levels: Sequence[float],
    solver: str = "heun",
    *,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
    generator: Generators = None,
) -> list[Tensor]:
    """Karras et al. 2022, Algorithm 2: x at each of `levels`, as many tensors as levels.

    Differentiable with respect to the denoiser; runs in the dtype of `noise`.

    Args:
        noise: z ~ N(0, 1), (B, …).
        levels: decreasing, from σ_max to the level of the samples, often 0.
        solver: a name in SOLVERS.
        churn, churn_min, churn_max, churn_noise: S_churn, S_tmin, S_tmax, S_noise; churn 0 is the
            deterministic Algorithm 1.
        generator: of the churn's noise.

    Raises:
        ValueError: for levels that do not decrease to 0 or above.
    """
    if len(levels) < 2 or any(a <= b for a, b in pairwise(levels)) or levels[-1] < 0:
        raise ValueError(f"levels must decrease strictly to 0 or above, got {list(levels)}")
    points = [levels[0] * noise]
    # γ is at most √2 − 1, so that noise never more than doubles its variance
    gamma = min(churn / (len(levels) - 1), math.sqrt(2) - 1)
    for sigma, to in pairwise(levels):
        x, hat = points[-1], sigma
        if gamma > 0 and churn_min <= sigma <= churn_max:
            hat = sigma * (1 + gamma)
            z = normal_like(x, generator)
            x = x + math.sqrt(hat**2 - sigma**2) * churn_noise * z
        ends = (x.new_full((x.shape[0],), level) for level in (hat, to))
        points.append(SOLVERS[solver](denoiser, x, *ends))
    return points
