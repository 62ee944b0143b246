"""What every consistency loss offers, and the losses by name.

A loss is a frozen dataclass of its hyperparameters. It is called with functions of (x_σ, σ), bound
to their condition, and draws its own levels and noise. Every loss moves along the probability-flow
ODE dx/dσ = (x − D(x, σ))/σ; what stands for D decides what it does:

    no teacher    D = x₀, the sample itself: consistency *training*;
    a teacher     D = its denoiser: consistency *distillation*.

To add a loss: write the class, name it below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from cmpolicy.consistency.continuous import ContinuousConsistency, SimplifiedConsistency
from cmpolicy.consistency.diffusion import DenoisingScoreMatching
from cmpolicy.consistency.discrete import (
    ConsistencyDistillation,
    ConsistencyTraining,
    EasyConsistencyTuning,
    ImprovedConsistencyTraining,
)
from cmpolicy.consistency.parameterization import LevelFunction, Parameterization
from cmpolicy.consistency.randomness import Randomness


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
        """The loss of each sample, (B, …) → (B,).

        Args:
            f, f_target: f_θ and f_θ⁻, (x_σ (B, …), σ (B,)) → x₀ (B, …).
            x0: data, (B, …).
            parameterization: whose σ_d, ε and σ_max the levels follow.
            progress: k/K over the whole training, () on the device.
            randomness: of noise and levels.
            teacher: D(x_σ, σ), a denoiser to distil.
            log_weight: σ (B,) → w (B,), a learned uncertainty; see `weighted`.
        """
        ...


# Losses that train on data alone, which a policy can use.
LOSSES: dict[str, Callable[..., Loss]] = {
    "ct": ConsistencyTraining,
    "ict": ImprovedConsistencyTraining,
    "ect": EasyConsistencyTuning,
    "ct_continuous": ContinuousConsistency,
    "sct": SimplifiedConsistency,
}

# Losses that distil a teacher.
DISTILLATIONS: dict[str, Callable[..., Loss]] = {
    "cd": ConsistencyDistillation,
    "cd_continuous": ContinuousConsistency,
    "scd": SimplifiedConsistency,
}

# What trains the teacher itself.
DIFFUSIONS: dict[str, Callable[..., Loss]] = {"edm": DenoisingScoreMatching}
