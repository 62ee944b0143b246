"""From a raw network F to a consistency function f with f(x, ε) = x.

Levels are given as σ and samples as x_σ = x₀ + σ z everywhere in this package; TrigFlow converts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# (x_σ (B, …), σ (B,)) → x₀ (B, …): a consistency function f, or a denoiser D, bound to a condition.
LevelFunction = Callable[[Tensor, Tensor], Tensor]


class Network(Protocol):
    """F(x, c_noise, condition): (B, …), (B,), anything → (B, …)."""

    def __call__(self, x: Tensor, c_noise: Tensor, condition: Tensor | None, /) -> Tensor: ...


def expand_as(level: Tensor, x: Tensor) -> Tensor:
    """Reshape per-sample levels () or (B,) to broadcast over the trailing axes of x (B, …).

    Raises:
        ValueError: for any other shape: (B, 1) times (B,) would silently become (B, B).
    """
    if level.ndim == 0:
        return level
    if level.ndim != 1 or level.shape[0] != x.shape[0]:
        raise ValueError(
            f"levels must have shape () or ({x.shape[0]},) for samples of shape "
            f"{tuple(x.shape)}, got {tuple(level.shape)}"
        )
    return level.reshape(-1, *(1,) * (x.ndim - 1))


class Coefficients(NamedTuple):
    """f(x, σ) = c_skip x + c_out F(c_in x, c_noise) at one level, its coefficients as numbers."""

    c_skip: float
    c_out: float
    c_in: float
    c_noise: float


@dataclass(frozen=True)
class NoiseRange:
    """The noise levels of a model.

    Attributes:
        sigma_data: σ_d, standard deviation of the data, in its units.
        sigma_min: ε, the first level of a grid.
        sigma_max: the level at which sampling begins.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max and sigma_data > 0.
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min < self.sigma_max and self.sigma_data > 0):
            raise ValueError(f"need 0 < sigma_min < sigma_max and sigma_data > 0, got {self}")


@dataclass(frozen=True)
class KarrasParameterization(NoiseRange):
    """f = c_skip x + c_out F(c_in x, c_noise): Song et al. 2023, eq. 5 and App. C.

    Its boundary is ε = sigma_min, the level at which f is the identity.
    """

    @property
    def boundary(self) -> float:
        """The level σ at which f(x, σ) = x."""
        return self.sigma_min

    def c_skip(self, sigma: Tensor) -> Tensor:
        """σ_d² / ((σ−ε)² + σ_d²)"""
        return self.sigma_data**2 / ((sigma - self.boundary) ** 2 + self.sigma_data**2)

    def c_out(self, sigma: Tensor) -> Tensor:
        """σ_d (σ−ε) / √(σ² + σ_d²)"""
        return self.sigma_data * (sigma - self.boundary) / (sigma**2 + self.sigma_data**2).sqrt()

    def c_in(self, sigma: Tensor) -> Tensor:
        """1 / √(σ² + σ_d²)"""
        return (sigma**2 + self.sigma_data**2).rsqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        """¼ ln σ"""
        return sigma.log() / 4

    def coefficients(self, sigma: float) -> Coefficients:
        """f at a level that is known in advance."""
        s = torch.tensor(sigma, dtype=torch.float64, device="cpu")
        c = self.c_skip(s), self.c_out(s), self.c_in(s), self.c_noise(s)
        return Coefficients(*(number.item() for number in c))

    def __call__(
        self, network: Network, x: Tensor, sigma: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """f(x_σ, σ): (B, …), () or (B,) → (B, …), in the dtype of x."""
        s = expand_as(sigma, x)
        c_noise = self.c_noise(sigma).expand(x.shape[0])
        return self.c_skip(s) * x + self.c_out(s) * network(self.c_in(s) * x, c_noise, condition)


@dataclass(frozen=True)
class EDMParameterization(KarrasParameterization):
    """The denoiser D = c_skip x + c_out F(c_in x, c_noise): Karras et al. 2022, eq. 7 and Table 1.

    Song's form with ε = 0. It is defined for σ > 0: ln σ enters the network.
    """

    @property
    def boundary(self) -> float:
        """The level σ towards which D(x, σ) tends to x."""
        return 0.0


@dataclass(frozen=True)
class DingJinParameterization(KarrasParameterization):
    """The form of Ding & Jin's published code: no input scaling, raw σ into the network.

    Kept to reproduce the paper; time enters unscaled here, up to σ_max = 80.
    """

    def c_in(self, sigma: Tensor) -> Tensor:
        """1"""
        return torch.ones_like(sigma)

    def c_noise(self, sigma: Tensor) -> Tensor:
        """σ"""
        return sigma


@dataclass(frozen=True)
class TrigFlowParameterization(NoiseRange):
    """f = cos t x_t − sin t σ_d F(x_t/σ_d, t): Lu & Song 2024, eq. 7–8.

    x_t = cos t x₀ + sin t z with z ~ N(0, σ_d²) is x_σ scaled by cos t, with t = arctan(σ/σ_d).
    Its boundary is t = 0, so ε is 0 here; `sigma_min` is only the first level of a discrete grid.
    """

    @property
    def boundary(self) -> float:
        """The level σ at which f(x, σ) = x."""
        return 0.0

    def time(self, sigma: Tensor) -> Tensor:
        """t = arctan(σ/σ_d) ∈ [0, π/2)"""
        return torch.atan(sigma / self.sigma_data)

    def coefficients(self, sigma: float) -> Coefficients:
        """f of x_σ, not of x_t, at a level that is known in advance."""
        t = math.atan(sigma / self.sigma_data)
        c_skip, c_out = math.cos(t) ** 2, -self.sigma_data * math.sin(t)
        return Coefficients(c_skip, c_out, math.cos(t) / self.sigma_data, t)

    def at_time(
        self, network: Network, x_t: Tensor, t: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """f(x_t, t) in TrigFlow's own coordinates: (B, …), () or (B,) → (B, …)."""
        s = expand_as(t, x_t)
        raw = network(x_t / self.sigma_data, t.expand(x_t.shape[0]), condition)
        return torch.cos(s) * x_t - torch.sin(s) * self.sigma_data * raw

    def __call__(
        self, network: Network, x: Tensor, sigma: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """f(x_σ, σ): (B, …), () or (B,) → (B, …), in the dtype of x."""
        t = self.time(sigma)
        return self.at_time(network, torch.cos(expand_as(t, x)) * x, t, condition)


Parameterization = KarrasParameterization | TrigFlowParameterization

PARAMETERIZATIONS: dict[str, type[KarrasParameterization | TrigFlowParameterization]] = {
    "karras": KarrasParameterization,
    "trigflow": TrigFlowParameterization,
    "ding_jin": DingJinParameterization,
}
