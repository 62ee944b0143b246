"""DMD2: the student's samples moved along the difference of two scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmpolicy.consistency.diffusion import DenoisingScoreMatching
from cmpolicy.consistency.loss import Levels, Loss, NoisyBatch, check_ranges
from cmpolicy.consistency.parameterization import LevelFunction, Parameterization, expand_as
from cmpolicy.consistency.randomness import Randomness, draw
from cmpolicy.consistency.schedules import karras_sigma

LEVELS = 1000  # of the Karras grid that levels are drawn from: Yin et al.'s code for EDM
LEAST_SPREAD = 1e-8  # of |x − D_real|, by which a gradient is divided


@dataclass(frozen=True)
class DistributionMatching(Loss):
    """Distribution matching distillation: Yin et al. 2023, eq. 7–8, and Yin et al. 2024 (DMD2).

    The student is a generator of one step, x = f_θ(σ_max z, σ_max). Its samples are moved along
    the difference of two scores at x_t = x + σ ε: that of the data, from the teacher D_real, and
    that of the student's own samples, from a denoiser D_fake that is trained on them all the time
    (`fake_loss`), `fake_updates` times as often. Neither the regression loss of the first paper nor
    the GAN of the second is used: no data are seen.

    Attributes:
        fake_updates: updates of D_fake for one of the student, the two time scales of DMD2.
        lowest, highest: the part of the Karras grid that σ is drawn from, of 0 … 1.
    """

    fake_updates: int = 5
    lowest: float = 0.02
    highest: float = 0.98

    def __post_init__(self) -> None:
        check_ranges(self, fake_updates=(1, 1000), lowest=(0, 1), highest=(self.lowest, 1))

    def levels(self, uniform: Tensor, p: Parameterization, progress: Tensor) -> Levels:
        """σ at a uniform place of the Karras grid between `lowest` and `highest`."""
        place = (self.lowest + uniform * (self.highest - self.lowest)) * (LEVELS - 1)
        sigma = karras_sigma(place, LEVELS, p.sigma_min, p.sigma_max)
        return sigma, sigma

    def generate(self, f: LevelFunction, noise: Tensor, p: Parameterization) -> Tensor:
        """f(σ_max z, σ_max), (B, …) → (B, …)."""
        return f(p.sigma_max * noise, noise.new_full(noise.shape[:1], p.sigma_max))

    def direction(
        self, x: Tensor, x_t: Tensor, sigma: Tensor, real: LevelFunction, fake: LevelFunction
    ) -> Tensor:
        """(D_fake(x_t) − D_real(x_t)) / mean|x − D_real(x_t)|: the gradient with respect to x.

        σ² times the difference of the scores, divided so that all levels count alike: eq. 8 of the
        first paper. (B, …), (B, …), (B,) → (B, …), without gradients.
        """
        with torch.no_grad():
            toward = real(x_t, sigma)
            spread = (x - toward).flatten(1).abs().mean(1).clamp_min(LEAST_SPREAD)
            return (fake(x_t, sigma) - toward) / expand_as(spread, x)

    def target(self, f_target: LevelFunction, batch: NoisyBatch) -> Tensor:
        """x less the gradient; `batch` is of samples x."""
        assert batch.teacher is not None, "DMD2 distils a teacher"
        x = batch.x0.detach()
        return x - self.direction(x, batch.x.detach(), batch.sigma, batch.teacher, f_target)

    def distance(self, value: Tensor, target: Tensor, batch: NoisyBatch) -> Tensor:
        """½ mean (x − target)², whose gradient with respect to x is `direction`/d: (B,)."""
        return (value - target).flatten(1).square().mean(1) / 2

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
        """The loss of the student, (B,); as `Loss.__call__` but for two arguments.

        Args:
            f_target: D_fake.
            x0: the student's noise z ~ N(0, 1) in place of data.
        """
        x = self.generate(f, x0, parameterization)
        batch = self.noisy(x, parameterization, progress, randomness, teacher)
        return self.distance(x, self.target(f_target, batch), batch)

    def fake_loss(
        self,
        f: LevelFunction,
        fake: LevelFunction,
        z: Tensor,
        p: Parameterization,
        randomness: Randomness = None,
    ) -> Tensor:
        """EDM's denoising loss of D_fake on the student's samples of z, (B, …) → (B,)."""
        with torch.no_grad():
            x = self.generate(f, z, p)
        batch = self.noisy(x, p, z.new_ones(()), randomness)
        return DenoisingScoreMatching().distance(fake(batch.x, batch.sigma), x, batch)

    def noisy(
        self,
        x: Tensor,
        p: Parameterization,
        progress: Tensor,
        randomness: Randomness,
        teacher: LevelFunction | None = None,
    ) -> NoisyBatch:
        """Samples x with noise at the levels of this loss."""
        noise, uniform = draw(x, randomness)
        low, sigma = self.levels(uniform, p, progress)
        x_t = x + expand_as(sigma, x) * noise
        return NoisyBatch(x, noise, low, sigma, x_t, p, progress, teacher)
