"""What all losses share: they draw noise and levels, call the networks, and weight the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cmpolicy.consistency.parameterization import LevelFunction, Parameterization, expand_as
from cmpolicy.consistency.randomness import Randomness, draw


class NoisyBatch(NamedTuple):
    """Samples with noise at two levels: x = x₀ + σ z. In continuous time both levels are one."""

    x0: Tensor  # (B, …)
    noise: Tensor  # z, (B, …)
    low: Tensor  # the lower level, (B,)
    sigma: Tensor  # the upper level, that of x, (B,)
    x: Tensor  # (B, …)
    p: Parameterization
    progress: Tensor  # k/K, ()
    teacher: LevelFunction | None


Levels = tuple[Tensor, Tensor]  # the lower and the upper one of each sample, (B,) each


@dataclass(frozen=True)
class Loss:
    """A distance between f_θ(x_σ, σ) and a constant target, one value a sample.

    A subclass is a frozen dataclass of hyperparameters. It says which levels, which target and
    which distance. All move along the probability-flow ODE dx/dσ = (x − D(x, σ))/σ; what stands
    for D decides what a loss does:

        no teacher    D = x₀, the sample itself: consistency *training*;
        a teacher     D = its denoiser: consistency *distillation*.
    """

    @property
    def needs_target_ema(self) -> bool:
        """Whether f_θ⁻ is a moving average of θ; otherwise it is θ itself, held constant."""
        return False

    def target_decay(self, progress: Tensor) -> Tensor:
        """μ(k), the decay of that average, ()."""
        return torch.zeros_like(progress)

    def levels(self, uniform: Tensor, p: Parameterization, progress: Tensor) -> Levels:
        """The levels of each sample, from one uniform number each."""
        raise NotImplementedError

    def target(self, f_target: LevelFunction, batch: NoisyBatch) -> Tensor:
        """What f_θ(x_σ, σ) is compared with, (B, …), computed without gradients."""
        raise NotImplementedError

    def distance(self, value: Tensor, target: Tensor, batch: NoisyBatch) -> Tensor:
        """The weighted distance of f_θ(x_σ, σ) from its target, (B, …), (B, …) → (B,)."""
        raise NotImplementedError

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
    ) -> Tensor:
        """The loss of each sample, (B, …) → (B,).

        Args:
            f, f_target: f_θ and f_θ⁻ bound to their condition, (x_σ (B, …), σ (B,)) → x₀ (B, …).
            x0: data, (B, …).
            parameterization: whose σ_d, ε and σ_max the levels follow.
            progress: k/K over the whole training, () on the device.
            randomness: of noise and levels.
            teacher: D(x_σ, σ), a denoiser to distil.
        """
        noise, uniform = draw(x0, randomness)
        low, sigma = self.levels(uniform, parameterization, progress)
        x = x0 + expand_as(sigma, x0) * noise
        batch = NoisyBatch(x0, noise, low, sigma, x, parameterization, progress, teacher)
        with torch.no_grad():
            target = self.target(f_target, batch)
        return self.distance(f(x, sigma), target, batch)


def check_ranges(loss: Loss, **ranges: tuple[float, float]) -> None:
    """Raise ValueError unless each hyperparameter lies in its range; NaN lies in none."""
    for name, (least, most) in ranges.items():
        value = getattr(loss, name)
        if not least <= value <= most:
            raise ValueError(f"{name} must be from {least:g} to {most:g}, got {value!r}")


# What a hyperparameter can be at all, far beyond what anybody needs.
COUNT, LOG_SIGMA_MEAN, LOG_SIGMA_STD = (1, 1e6), (-50, 50), (1e-3, 100)
