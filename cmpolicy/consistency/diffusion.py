"""Denoisers: the loss of EDM, and the one that a batch of data is by itself."""

from __future__ import annotations

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
from cmpolicy.consistency.loss_metrics import edm_weight, squared
from cmpolicy.consistency.parameterization import LevelFunction, Parameterization
from cmpolicy.consistency.schedules import lognormal_sigma


@dataclass(frozen=True)
class DenoisingScoreMatching(Loss):
    """λ(σ) ‖D_θ(x₀ + σ z, σ) − x₀‖², λ = (σ² + σ_d²)/(σ σ_d)²: Karras et al. 2022, eq. 2, Table 1.

    A teacher's D(x_σ, σ) may stand for x₀, whose expectation it is.

    Attributes:
        p_mean, p_std: mean and standard deviation of ln σ, drawn between σ_min and σ_max.
    """

    p_mean: float = -1.2
    p_std: float = 1.2

    def __post_init__(self) -> None:
        check_ranges(self, p_mean=LOG_SIGMA_MEAN, p_std=LOG_SIGMA_STD)

    def levels(self, uniform: Tensor, p: Parameterization, progress: Tensor) -> Levels:
        """ln σ ~ N(P_mean, P_std²) between σ_min and σ_max."""
        sigma = lognormal_sigma(uniform, p.sigma_min, p.sigma_max, self.p_mean, self.p_std)
        return sigma, sigma

    def target(self, f_target: LevelFunction, batch: NoisyBatch) -> Tensor:
        """x₀, or the teacher's D(x_σ, σ)"""
        return batch.x0 if batch.teacher is None else batch.teacher(batch.x, batch.sigma)

    def distance(self, value: Tensor, target: Tensor, batch: NoisyBatch) -> Tensor:
        """λ(σ) ‖D_θ − target‖²"""
        return edm_weight(batch.sigma, batch.p.sigma_data) * squared(value, target)


def batch_denoiser(
    x0: Tensor,
    condition: Tensor | None = None,
    references: tuple[Tensor, Tensor | None] | None = None,
    bandwidth: float = 0.02,
) -> LevelFunction:
    """E[x₀ | x_σ] if the data were this batch: the stable target of Xu, Tong & Jaakkola 2023.

    As a teacher it makes denoising and consistency training of low variance: without one, D is the
    sample that the noise was added to, one draw of the same expectation. For few dimensions; in
    many, every noisy point knows its own sample.

    Args:
        x0: (B, …); the i-th noisy point is that of the i-th sample.
        condition: (B, …); a sample whose condition is c′ counts with exp(−‖c − c′‖²/2h²), so that
            of labels only equal ones do.
        references: more samples (R, …) and their conditions, without noisy points of their own.
        bandwidth: h, in units of the condition.

    Returns:
        D(x_σ (B, …), σ (B,)) → (B, …).
    """
    data, given = x0.flatten(1), condition
    if references is not None:
        data = torch.cat((data, references[0].flatten(1)))
        if condition is not None and references[1] is not None:
            given = torch.cat((condition, references[1]))
    # −‖x − d‖²/2 up to ‖x‖²/2, which is the same for every d, as one product
    extended = torch.cat((data, -0.5 * data.square().sum(1, keepdim=True)), dim=1).T
    kernel: Tensor | float = 0.0
    if condition is not None and given is not None:
        c, others = (t.flatten(1).to(x0.dtype) for t in (condition, given))
        kernel = -torch.cdist(c, others).square() / (2 * bandwidth**2)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        points = torch.cat((x.flatten(1), torch.ones_like(sigma[:, None])), dim=1)
        logits = (points / sigma[:, None] ** 2) @ extended + kernel
        return (logits.softmax(1) @ data).view_as(x)

    return denoise
