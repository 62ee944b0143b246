"""Consistency losses: functions of f, a batch and k/K, one value a sample.

A loss is a frozen dataclass of its hyperparameters. It is called with the online function f_θ and
the target function f_θ⁻ (both already bound to their condition) and draws its own levels and noise.
To add one: write the class, name it in LOSSES.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cmpolicy.consistency.parameterization import Parameterization, expand_as
from cmpolicy.consistency.schedules import (
    ct_ema_decay,
    ct_num_levels,
    ict_num_levels,
    karras_sigma,
    lognormal_index,
)

ConsistencyFunction = Callable[[Tensor, Tensor], Tensor]  # (x_σ (B, …), σ (B,)) → x₀ (B, …)


def squared(difference: Tensor) -> Tensor:
    """‖Δ‖² of each sample: (B, …) → (B,)."""
    return difference.flatten(1).square().sum(1)


def mean_squared(difference: Tensor) -> Tensor:
    """‖Δ‖²/d of each sample: (B, …) → (B,)."""
    return difference.flatten(1).square().mean(1)


def l1(difference: Tensor) -> Tensor:
    """‖Δ‖₁ of each sample: (B, …) → (B,)."""
    return difference.flatten(1).abs().sum(1)


def pseudo_huber(difference: Tensor) -> Tensor:
    """√(‖Δ‖² + c²) − c, c = 0.00054 √d: Song & Dhariwal 2023, eq. 8. (B, …) → (B,)."""
    delta = difference.flatten(1)
    c = 0.00054 * math.sqrt(delta.shape[1])
    return (delta.square().sum(1) + c**2).sqrt() - c


METRICS: dict[str, Callable[[Tensor], Tensor]] = {
    "squared": squared,
    "mean_squared": mean_squared,
    "l1": l1,
    "pseudo_huber": pseudo_huber,
}


class Loss(Protocol):
    """What every consistency loss offers."""

    @property
    def needs_target_ema(self) -> bool:
        """Whether f_θ⁻ is a moving average of θ; otherwise it is θ itself, held constant."""
        ...

    def target_decay(self, progress: Tensor) -> Tensor:
        """μ(k), the decay of that average."""
        ...

    def __call__(
        self,
        f: ConsistencyFunction,
        f_target: ConsistencyFunction,
        x0: Tensor,
        parameterization: Parameterization,
        progress: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss of each sample, (B, …) → (B,)."""
        ...


def neighbour_difference(
    f: ConsistencyFunction,
    f_target: ConsistencyFunction,
    x0: Tensor,
    noise: Tensor,
    sigma_low: Tensor,
    sigma_high: Tensor,
) -> Tensor:
    """f_θ(x₀ + σ_{n+1} z, σ_{n+1}) − f_θ⁻(x₀ + σ_n z, σ_n), one z: Song et al. 2023, eq. 10."""
    with torch.no_grad():
        target = f_target(x0 + expand_as(sigma_low, x0) * noise, sigma_low)
    return f(x0 + expand_as(sigma_high, x0) * noise, sigma_high) - target


def draw(x0: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Noise of the shape of x0, and one uniform number a sample."""
    noise = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
    uniform = torch.rand(x0.shape[0], generator=generator, device=x0.device, dtype=x0.dtype)
    return noise, uniform


@dataclass(frozen=True)
class ConsistencyTraining:
    """CT: Song et al. 2023, Algorithm 3 with the curricula of App. C.

    Attributes:
        s0, s1: number of levels at the start and at the end of training.
        mu0: decay of the target network at the start.
        metric: a name in METRICS.
        weight: "uniform" (λ = 1), or "inverse" (λ = 1/(σ_{n+1} − σ_n)).
        scale: multiplies the loss.
        fixed_decay: decay of the target network in place of μ(k), as in Ding & Jin's code.
    """

    s0: int = 2
    s1: int = 150
    mu0: float = 0.9
    metric: str = "squared"
    weight: str = "uniform"
    scale: float = 1.0
    fixed_decay: float | None = None

    needs_target_ema = True

    def __post_init__(self) -> None:
        if self.metric not in METRICS or self.weight not in ("uniform", "inverse"):
            raise ValueError(
                f"metric must be one of {', '.join(METRICS)} and weight uniform or inverse, "
                f"got {self.metric!r} and {self.weight!r}"
            )

    def target_decay(self, progress: Tensor) -> Tensor:
        """The decay of f_θ⁻, () like `progress`."""
        if self.fixed_decay is not None:
            return torch.full_like(progress, self.fixed_decay)
        return ct_ema_decay(ct_num_levels(progress, self.s0, self.s1), self.s0, self.mu0)

    def __call__(
        self,
        f: ConsistencyFunction,
        f_target: ConsistencyFunction,
        x0: Tensor,
        parameterization: Parameterization,
        progress: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        noise, uniform = draw(x0, generator)
        levels = ct_num_levels(progress, self.s0, self.s1)
        index = torch.floor(uniform * (levels - 1))  # n ~ U{0 … N−2}
        p = parameterization
        low = karras_sigma(index, levels, p.sigma_min, p.sigma_max)
        high = karras_sigma(index + 1, levels, p.sigma_min, p.sigma_max)
        loss = METRICS[self.metric](neighbour_difference(f, f_target, x0, noise, low, high))
        return self.scale * (loss if self.weight == "uniform" else loss / (high - low))


@dataclass(frozen=True)
class ImprovedConsistencyTraining:
    """iCT: Song & Dhariwal 2023. No target average, pseudo-Huber, lognormal levels, 1/Δσ.

    Attributes:
        s0, s1: number of levels at the start and at the end of training.
        p_mean, p_std: mean and standard deviation of ln σ, for data of σ_d = 0.5.
        metric: a name in METRICS.
    """

    s0: int = 10
    s1: int = 1280
    p_mean: float = -1.1
    p_std: float = 2.0
    metric: str = "pseudo_huber"

    needs_target_ema = False

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(
                f"unknown metric {self.metric!r}, expected one of {', '.join(METRICS)}"
            )

    def target_decay(self, progress: Tensor) -> Tensor:
        return torch.zeros_like(progress)

    def __call__(
        self,
        f: ConsistencyFunction,
        f_target: ConsistencyFunction,
        x0: Tensor,
        parameterization: Parameterization,
        progress: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        noise, uniform = draw(x0, generator)
        levels = ict_num_levels(progress, self.s0, self.s1)
        p = parameterization
        index = lognormal_index(uniform, levels, p.sigma_min, p.sigma_max, self.p_mean, self.p_std)
        low = karras_sigma(index, levels, p.sigma_min, p.sigma_max)
        high = karras_sigma(index + 1, levels, p.sigma_min, p.sigma_max)
        loss = METRICS[self.metric](neighbour_difference(f, f_target, x0, noise, low, high))
        return loss / (high - low)


LOSSES: dict[str, Callable[..., Loss]] = {
    "ct": ConsistencyTraining,
    "ict": ImprovedConsistencyTraining,
}
