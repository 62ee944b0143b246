"""Sampling at levels that are known in advance: `multistep` in as few operations as it takes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cmpolicy.consistency.parameterization import Network, Parameterization
from cmpolicy.consistency.randomness import normal
from cmpolicy.consistency.sampling import check_levels


class FewStepSampler(nn.Module):
    """Algorithm 1 of Song et al. 2023, as `multistep`, at levels that all samples share.

    The coefficients of f are numbers, and levels are embedded once where that is not learned.
    Nothing here enters a state dict.

    Args:
        levels: strictly decreasing noise levels, the first one σ_max.
        embedding: of the network that will be sampled from, (n,) → (n, dim); None if it has none,
            and is to be given a level for each sample.
        like: a tensor of that network, for device and dtype.
        squash: tanh on the inputs and the outputs of f, see `ActionBound`.

    Raises:
        ValueError: for levels that do not decrease or reach below the boundary.
    """

    noise_levels: Tensor

    def __init__(
        self,
        parameterization: Parameterization,
        levels: Sequence[float],
        embedding: nn.Module | None,
        like: Tensor,
        squash: bool = False,
    ) -> None:
        super().__init__()
        check_levels(levels, parameterization.boundary)
        self.steps = len(levels)
        self.coefficients = [parameterization.coefficients(sigma) for sigma in levels]
        # √(σ² − ε²), the noise that takes a sample back to each level
        self.spread = [(sigma**2 - parameterization.boundary**2) ** 0.5 for sigma in levels]
        self.sigma_max, self.squash = levels[0], squash
        if not squash:  # the first x is σ_max z, and σ_max joins the coefficients
            c = self.coefficients[0]
            scaled = {"c_skip": c.c_skip * levels[0], "c_in": c.c_in * levels[0]}
            self.coefficients[0] = c._replace(**scaled)
        c_noise = [c.c_noise for c in self.coefficients]
        noise_levels = torch.tensor(c_noise, device=like.device, dtype=like.dtype)
        self.embeds = embedding is not None
        if embedding is not None and not list(embedding.parameters()):
            noise_levels = embedding(noise_levels)
        self.register_buffer("noise_levels", noise_levels, persistent=False)

    def level(self, i: int, x: Tensor) -> Tensor:
        """c_noise of step i, (1,), embedded already if that can be; else for each of x, (B,)."""
        level = self.noise_levels[i : i + 1]
        return level if self.embeds else level.expand(x.shape[0])

    def sample(
        self,
        network: Network,
        noise: Tensor,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Noise z ~ N(0, 1) → samples (B, dim), differentiably, in the dtype of the noise.

        Args:
            network: takes a level that all samples share once, (1,), or embedded, (1, n).
            noise: of the first step, (B, dim), or of every step, (B, steps, dim); what is not
                given is drawn.
            condition: (B, condition_dim).
        """
        given = (noise,) if noise.ndim == 2 else noise.unbind(1)
        x = self.sigma_max * given[0] if self.squash else given[0]
        for i, c in enumerate(self.coefficients):
            if i > 0:
                z = given[i] if i < len(given) else normal(x.shape, x, generator)
                x = torch.add(x, z, alpha=self.spread[i])
            x = x.tanh() if self.squash else x
            raw = network(c.c_in * x, self.level(i, x), condition)
            x = torch.add(c.c_skip * x, raw, alpha=c.c_out)
            x = x.tanh() if self.squash else x
        return x


class EulerSampler(FewStepSampler):
    """Euler's steps of the ODE dx/dσ = (x − D(x, σ))/σ from each level to the next, down to 0.

    As `solve` with "euler", for a denoiser D. With r = σ'/σ a step is r x + (1 − r) D, so that the
    coefficients of D make those of the step. Nothing is drawn on the way.
    """

    def __init__(
        self,
        parameterization: Parameterization,
        levels: Sequence[float],
        embedding: nn.Module | None,
        like: Tensor,
    ) -> None:
        super().__init__(parameterization, levels, embedding, like)
        units = [self.sigma_max, *(1.0 for _ in levels[1:])]  # what x is counted in
        for i, (sigma, to) in enumerate(pairwise([*levels, 0.0])):
            r, c = to / sigma, self.coefficients[i]
            self.coefficients[i] = c._replace(
                c_skip=r * units[i] + (1 - r) * c.c_skip, c_out=(1 - r) * c.c_out
            )

    def sample(
        self,
        network: Network,
        noise: Tensor,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """As `FewStepSampler.sample`; of the noise of every step it needs the first one's."""
        x = noise if noise.ndim == 2 else noise[:, 0]
        for i, c in enumerate(self.coefficients):
            raw = network(c.c_in * x, self.level(i, x), condition)
            x = torch.add(c.c_skip * x, raw, alpha=c.c_out)
        return x
