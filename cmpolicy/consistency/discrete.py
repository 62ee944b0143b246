"""Losses on two neighbouring noise levels: CT, CD, iCT and ECT."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmpolicy.consistency.loss import (
    COUNT,
    LOG_SIGMA_MEAN,
    LOG_SIGMA_STD,
    Levels,
    Loss,
    NoisyBatch,
    check_ranges,
)
from cmpolicy.consistency.loss_metrics import Metric, edm_weight, metric_named
from cmpolicy.consistency.parameterization import LevelFunction, Parameterization, expand_as
from cmpolicy.consistency.schedules import (
    ct_ema_decay,
    ct_num_levels,
    ect_lower_level,
    ict_num_levels,
    karras_sigma,
    lognormal_index,
    lognormal_sigma,
)
from cmpolicy.consistency.solvers import SOLVERS


@dataclass(frozen=True)
class DiscreteConsistency(Loss):
    """λ d(f_θ(x_{n+1}, σ_{n+1}), f_θ⁻(x̂_n, σ_n)): Song et al. 2023, eq. 7 and 10.

    A subclass draws the two levels. x_{n+1} = x₀ + σ_{n+1} z, and x̂_n is one step of the
    probability-flow ODE from it: x₀ + σ_n z, or the teacher's.

    Attributes:
        metric: a name in METRICS, or a metric itself.
        weight: ``uniform`` (λ = 1), ``inverse`` (λ = 1/(σ_{n+1} − σ_n)), or ``edm``.
        solver: a name in SOLVERS, for the teacher's step.
        scale: multiplies the loss.
    """

    metric: str | Metric = "squared"
    weight: str = "uniform"
    solver: str = "heun"
    scale: float = 1.0

    def __post_init__(self) -> None:
        metric_named(self.metric)
        if self.weight not in ("uniform", "inverse", "edm"):
            raise ValueError(f"weight must be uniform, inverse or edm, got {self.weight!r}")
        if self.solver not in SOLVERS:
            raise ValueError(
                f"unknown solver {self.solver!r}, expected one of {', '.join(SOLVERS)}"
            )
        check_ranges(self, scale=(1e-12, 1e12))

    def target(self, f_target: LevelFunction, batch: NoisyBatch) -> Tensor:
        """f_θ⁻(x̂_n, σ_n)"""
        if batch.teacher is None:
            x_low = batch.x0 + expand_as(batch.low, batch.x0) * batch.noise
        else:
            x_low = SOLVERS[self.solver](batch.teacher, batch.x, batch.sigma, batch.low)
        return f_target(x_low, batch.low)

    def distance(self, value: Tensor, target: Tensor, batch: NoisyBatch) -> Tensor:
        """λ d of value and target, scaled."""
        loss = metric_named(self.metric)(value, target)
        if self.weight == "inverse":
            loss = loss / (batch.sigma - batch.low)
        elif self.weight == "edm":
            loss = edm_weight(batch.sigma, batch.p.sigma_data) * loss
        return self.scale * loss


@dataclass(frozen=True)
class ConsistencyTraining(DiscreteConsistency):
    """CT: Song et al. 2023, Algorithm 3 with the curricula of App. C.

    Attributes:
        s0, s1: number of levels at the start and at the end of training.
        mu0: decay of the target network at the start.
        fixed_decay: decay of the target network in place of μ(k), 0 for none: the network itself.
    """

    s0: int = 2
    s1: int = 150
    mu0: float = 0.9
    fixed_decay: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, s0=COUNT, s1=COUNT, mu0=(1e-6, 1))
        if self.fixed_decay is not None:
            check_ranges(self, fixed_decay=(0, 1))

    @property
    def needs_target_ema(self) -> bool:
        return self.fixed_decay != 0

    def target_decay(self, progress: Tensor) -> Tensor:
        if self.fixed_decay is not None:
            return torch.full_like(progress, self.fixed_decay)
        return ct_ema_decay(ct_num_levels(progress, self.s0, self.s1), self.s0, self.mu0)

    def levels(self, uniform: Tensor, p: Parameterization, progress: Tensor) -> Levels:
        """n ~ U{0 … N(k)−2} on the Karras grid of N(k) levels."""
        return uniform_neighbours(uniform, ct_num_levels(progress, self.s0, self.s1), p)


@dataclass(frozen=True)
class ConsistencyDistillation(DiscreteConsistency):
    """CD: Song et al. 2023, Algorithm 2.

    Attributes:
        num_levels: N, constant over the training.
        mu: decay of the target network, 0 for none.
    """

    num_levels: int = 40
    mu: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, num_levels=(2, 1e6), mu=(0, 1))

    @property
    def needs_target_ema(self) -> bool:
        return self.mu > 0

    def target_decay(self, progress: Tensor) -> Tensor:
        return torch.full_like(progress, self.mu)

    def levels(self, uniform: Tensor, p: Parameterization, progress: Tensor) -> Levels:
        """n ~ U{0 … N−2}"""
        levels = torch.full_like(progress, self.num_levels)
        return uniform_neighbours(uniform, levels, p)


@dataclass(frozen=True)
class ImprovedConsistencyTraining(DiscreteConsistency):
    """iCT: Song & Dhariwal 2023. No target average, pseudo-Huber, lognormal levels, 1/Δσ.

    Attributes:
        s0, s1: number of levels at the start and at the end of training.
        p_mean, p_std: mean and standard deviation of ln σ, for data of σ_d = 0.5.
    """

    metric: str | Metric = "pseudo_huber"
    weight: str = "inverse"
    s0: int = 10
    s1: int = 1280
    p_mean: float = -1.1
    p_std: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, s0=COUNT, s1=(self.s0, 1e6), p_mean=LOG_SIGMA_MEAN, p_std=LOG_SIGMA_STD)

    def levels(self, uniform: Tensor, p: Parameterization, progress: Tensor) -> Levels:
        """n of eq. 10 on the Karras grid of N(k) levels, eq. 9."""
        levels = ict_num_levels(progress, self.s0, self.s1)
        index = lognormal_index(uniform, levels, p.sigma_min, p.sigma_max, self.p_mean, self.p_std)
        return neighbours(index, levels, p)


@dataclass(frozen=True)
class EasyConsistencyTuning(DiscreteConsistency):
    """ECT: Geng et al. 2024. Continuous levels whose distance shrinks in stages.

    Best from a network that was trained as a denoiser, which is its first stage, r = 0.

    Attributes:
        q: by which the ratio of the two levels shrinks from stage to stage, eq. 17 of App. A.
        stages: how many there are over the whole training.
        p_mean, p_std: mean and standard deviation of ln σ.
    """

    metric: str | Metric = "pseudo_huber"
    weight: str = "inverse"
    q: float = 2.0
    stages: int = 8
    p_mean: float = -1.1
    p_std: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, q=(1, 1e6), stages=COUNT, p_mean=LOG_SIGMA_MEAN, p_std=LOG_SIGMA_STD)

    def levels(self, uniform: Tensor, p: Parameterization, progress: Tensor) -> Levels:
        """ln σ_{n+1} ~ N(P_mean, P_std²) within the grid's ends, σ_n = r(σ_{n+1})."""
        high = lognormal_sigma(uniform, p.sigma_min, p.sigma_max, self.p_mean, self.p_std)
        stage = torch.floor(progress * self.stages).clamp(max=self.stages - 1)
        low = ect_lower_level(high, stage, self.q).clamp(min=p.boundary)
        return torch.minimum(low, high), high


def uniform_neighbours(uniform: Tensor, num_levels: Tensor, p: Parameterization) -> Levels:
    """σ_n and σ_{n+1} with n ~ U{0 … N−2}."""
    return neighbours(torch.floor(uniform * (num_levels - 1)), num_levels, p)


def neighbours(index: Tensor, num_levels: Tensor, p: Parameterization) -> Levels:
    """σ_n and σ_{n+1} of the ascending Karras grid."""
    low, high = (karras_sigma(i, num_levels, p.sigma_min, p.sigma_max) for i in (index, index + 1))
    return low, high
