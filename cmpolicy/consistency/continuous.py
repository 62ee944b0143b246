"""Losses in continuous time: a tangent along the probability-flow ODE in place of a difference.

The tangent comes from forward-mode differentiation of f_θ⁻ itself, so these losses take any
parameterization.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from cmpolicy.consistency.loss import (
    LOG_SIGMA_MEAN,
    LOG_SIGMA_STD,
    Levels,
    Loss,
    NoisyBatch,
    check_ranges,
)
from cmpolicy.consistency.loss_metrics import edm_weight, metric_named, squared
from cmpolicy.consistency.parameterization import LevelFunction, Parameterization, expand_as
from cmpolicy.consistency.schedules import karras_sigma, karras_speed, lognormal_sigma
from cmpolicy.consistency.solvers import slope


@functools.cache
def prepare_forward_mode() -> None:
    """Let torch load its forward-mode rules: on first use it warns of a function of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


def tangent(
    f: LevelFunction, x: Tensor, sigma: Tensor, velocity: Tensor, speed: Tensor
) -> tuple[Tensor, Tensor]:
    """f(x_σ, σ) and speed · df/dσ = speed · (∂f/∂x dx/dσ + ∂f/∂σ), both constants to autograd.

    Args:
        x: (B, …) points.
        sigma: (B,) their levels.
        velocity: dx/dσ, (B, …).
        speed: (B,), the derivative of σ with respect to whatever time the tangent is wanted in.
    """
    direction = (expand_as(speed, x) * velocity, speed)
    with torch.no_grad():
        value, derivative = torch.func.jvp(f, (x, sigma), direction)  # type: ignore[misc]
    return value.detach(), derivative.detach()


def velocity_at(batch: NoisyBatch) -> Tensor:
    """dx/dσ = (x − D(x, σ))/σ: the noise z itself without a teacher. Song et al. 2023, eq. 2, 6."""
    if batch.teacher is None:
        return batch.noise
    return slope(batch.teacher, batch.x, batch.sigma)


@dataclass(frozen=True)
class ContinuousConsistency(Loss):
    """The continuous-time CT and CD of Song et al. 2023, App. B, Theorems 5 and 6 with θ⁻ = sg(θ).

    Levels are σ(u), u ~ U[0, 1], along the Karras curve. As N → ∞ the two neighbours of the
    discrete loss differ by df/du · Δu; the loss is d(f_θ, sg(f_θ − df/du)), whose gradient for the
    squared metric, 2 ∂f_θ/∂θ · df/du, is that of eq. 26 (CD) and 33 (CT).

    Attributes:
        metric: a name in METRICS.
        weight: ``uniform`` (λ = 1, with which the largest levels drown all others), or ``edm``.
    """

    metric: str = "squared"
    weight: str = "edm"

    def __post_init__(self) -> None:
        metric_named(self.metric)
        if self.weight not in ("uniform", "edm"):
            raise ValueError(f"weight must be uniform or edm, got {self.weight!r}")
        prepare_forward_mode()

    def levels(self, uniform: Tensor, p: Parameterization, progress: Tensor) -> Levels:
        """σ(u), u ~ U[0, 1]."""
        sigma = karras_sigma(uniform, 2, p.sigma_min, p.sigma_max)
        return sigma, sigma

    def target(self, f_target: LevelFunction, batch: NoisyBatch) -> Tensor:
        """f_θ⁻ − df_θ⁻/du"""
        speed = karras_speed(batch.sigma, batch.p.sigma_min, batch.p.sigma_max)
        value, df_du = tangent(f_target, batch.x, batch.sigma, velocity_at(batch), speed)
        return value - df_du

    def distance(self, value: Tensor, target: Tensor, batch: NoisyBatch) -> Tensor:
        """λ d(f_θ, target)"""
        loss = metric_named(self.metric)(value, target)
        return (
            loss if self.weight == "uniform" else edm_weight(batch.sigma, batch.p.sigma_data) * loss
        )


@dataclass(frozen=True)
class SimplifiedConsistency(Loss):
    """sCT, and with a teacher sCD: Lu & Song 2024, Algorithm 1.

    TrigFlow's coordinates are t = arctan(σ/σ_d) and x_t = cos t · x_σ; any consistency function has
    a raw network in them, F = (cos t x_t − f)/(σ_d sin t).

    Attributes:
        p_mean, p_std: mean and standard deviation of τ = ln σ.
        warmup: fraction of the training over which r rises to 1 (their H = 10,000 updates).
        c: in the normalisation g/(‖g‖ + c).
    """

    p_mean: float = -1.0
    p_std: float = 1.4
    warmup: float = 0.2
    c: float = 0.1

    def __post_init__(self) -> None:
        check_ranges(self, p_mean=LOG_SIGMA_MEAN, p_std=LOG_SIGMA_STD, warmup=(0, 1), c=(1e-9, 1e9))
        prepare_forward_mode()

    def levels(self, uniform: Tensor, p: Parameterization, progress: Tensor) -> Levels:
        """ln σ ~ N(P_mean, P_std²) between σ_min and σ_max."""
        sigma = lognormal_sigma(uniform, p.sigma_min, p.sigma_max, self.p_mean, self.p_std)
        return sigma, sigma

    def target(self, f_target: LevelFunction, batch: NoisyBatch) -> Tensor:
        """f_θ⁻ and g/(‖g‖ + c) as one tensor, (2, B, …)."""
        k, sigma_data = batch.progress, batch.p.sigma_data
        r = (k / self.warmup).clamp(max=1.0) if self.warmup else torch.ones_like(k)
        velocity = velocity_at(batch)
        value, g = trigflow_tangent(f_target, batch.x, batch.sigma, velocity, sigma_data, r)
        return torch.stack((value, g / expand_as(g.flatten(1).norm(dim=1) + self.c, g)))

    def distance(self, value: Tensor, target: Tensor, batch: NoisyBatch) -> Tensor:
        """‖F_θ − F_θ⁻ − g‖²/D with F_θ − F_θ⁻ = (f_θ⁻ − f_θ)/(σ_d sin t)"""
        constant, g = target
        sigma_data = batch.p.sigma_data
        sin_t = batch.sigma * (batch.sigma**2 + sigma_data**2).rsqrt()
        step = (constant - value) / (sigma_data * expand_as(sin_t, value))
        loss: Tensor = squared(step, g) / g[0].numel()
        return loss


def trigflow_tangent(
    f: LevelFunction,
    x: Tensor,
    sigma: Tensor,
    velocity: Tensor,
    sigma_data: float,
    r: Tensor,
) -> tuple[Tensor, Tensor]:
    """f, and g = −cos²t (σ_d F − dx_t/dt) − r (cos t sin t · x_t + σ_d J): Lu & Song 2024, eq. 6.

    With r = 1 this is cos t · df/dt, and since dσ/dt = σ_d/cos²t one jvp in σ gives all of it:
    cos t · df/dt = √(σ² + σ_d²) df/dσ.

    Args:
        x: x_σ, (B, …), with dx_σ/dσ = `velocity`.
        r: () in [0, 1], how much of the unstable second part counts.
    """
    hypotenuse = (sigma**2 + sigma_data**2).sqrt()
    value, whole = tangent(f, x, sigma, velocity, hypotenuse)
    cos_t, sin_t = expand_as(sigma_data / hypotenuse, x), expand_as(sigma / hypotenuse, x)
    raw = (cos_t**2 * x - value) / (sigma_data * sin_t)
    denoised = x - expand_as(sigma, x) * velocity
    dx_dt = cos_t * sigma_data * velocity - sin_t * denoised
    stable = -(cos_t**2) * (sigma_data * raw - dx_dt)
    return value, stable + r * (whole - stable)
