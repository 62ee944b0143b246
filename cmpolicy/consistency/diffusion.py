"""Denoisers: the loss of EDM, and the one that a batch of data is by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cmpolicy.consistency.metrics import squared, weighted
from cmpolicy.consistency.parameterization import (
    LevelFunction,
    Parameterization,
    expand_as,
)
from cmpolicy.consistency.randomness import Randomness, draw
from cmpolicy.consistency.schedules import lognormal_sigma


@dataclass(frozen=True)
class DenoisingScoreMatching:
    """λ(σ) ‖D_θ(x₀ + σ z, σ) − x₀‖², λ = (σ² + σ_d²)/(σ σ_d)²: Karras et al. 2022, eq. 2, Table 1.

    Attributes:
        p_mean, p_std: mean and standard deviation of ln σ, drawn between σ_min and σ_max.
    """

    p_mean: float = -1.2
    p_std: float = 1.2

    needs_target_ema = False

    def target_decay(self, progress: Tensor) -> Tensor:
        return torch.zeros_like(progress)

    def __call__(
        self,
        f: LevelFunction,
        f_target: LevelFunction,
        x0: Tensor,
        parameterization: Parameterization,
        progress: Tensor,
        randomness: Randomness = None,
        *,
        teacher: LevelFunction | None = None,
        log_weight: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        noise, uniform = draw(x0, randomness)
        p = parameterization
        sigma = lognormal_sigma(uniform, p.sigma_min, p.sigma_max, self.p_mean, self.p_std)
        loss = squared(f(x0 + expand_as(sigma, x0) * noise, sigma), x0)
        weight = (sigma**2 + p.sigma_data**2) / (sigma * p.sigma_data) ** 2
        return weighted(weight * loss, sigma, log_weight)


def batch_denoiser(x0: Tensor, condition: Tensor | None = None) -> LevelFunction:
    """E[x₀ | x_σ] if the data were this batch: the stable target of Xu, Tong & Jaakkola 2023.

    As a teacher it makes consistency training of low variance: without one, D is the sample that
    the noise was added to, one draw of the same expectation. For few dimensions; in many, every
    noisy point knows its own sample.

    Args:
        x0: (B, …); the i-th noisy point is that of the i-th sample.
        condition: (B, …); only samples of an equal condition count.

    Returns:
        D(x_σ (B, …), σ (B,)) → (B, …).
    """
    data = x0.flatten(1)
    equal = None
    if condition is not None:
        c = condition.flatten(1)
        equal = (c[:, None] == c[None]).all(2)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        distance = torch.cdist(x.flatten(1), data).square()
        logits = -distance / (2 * sigma[:, None] ** 2)
        if equal is not None:
            logits = logits.masked_fill(~equal, -torch.inf)
        return (logits.softmax(1) @ data).view_as(x)

    return denoise
