"""Good episodes are imitated more often than others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReturnWeights:
    """Weights ∝ exp(G/α) of the steps of an episode: return weighting, Hong et al. 2023, eq. 8.

    G is the episode's return scaled to [0, 1] between the data's worst and best.

    Attributes:
        temperature: α > 0; near 0 only the best episodes count.
        worst, best: returns of the data's episodes.
        shares: see `shares_of`, of the data's transitions.
    """

    temperature: float
    worst: float
    best: float
    shares: Tensor

    @classmethod
    def of(cls, returns: Tensor, ends: Tensor, temperature: float) -> ReturnWeights:
        """For the data that has these returns, (episodes,), and these last transitions, (N,)."""
        worst, best = float(returns.min()), float(returns.max())
        weights = cls(temperature, worst, best, returns)
        exponents = weights.exponents(returns.to(ends.device))
        return replace(weights, shares=shares_of(exponents[ends.cumsum(0) - ends.long()]))

    def exponents(self, returns: Tensor) -> Tensor:
        """Logarithms of the weights of episodes, which may be better than any in the data."""
        return (returns - self.best) / max(self.best - self.worst, 1e-12) / self.temperature

    def at(self, temperature: float) -> ReturnWeights:
        """Those of the same returns at another temperature."""
        own = self.shares.diff(prepend=self.shares.new_zeros(1))
        exponents = own.log() * (self.temperature / temperature)
        return replace(self, temperature=temperature, shares=shares_of(exponents))

    def to(self, device: torch.device | str) -> ReturnWeights:
        """The same weights on `device`."""
        return replace(self, shares=self.shares.to(device))


def shares_of(exponents: Tensor) -> Tensor:
    """Of weights exp(x), (N,), the share of each and all before it: ascending to 1, float64."""
    shares = exponents.double().softmax(0).cumsum(0)
    return shares / shares[-1]


def draw_shares(shares: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Indices drawn by their shares, (count,) int64. Nothing here waits for the device."""
    uniform = torch.rand(count, dtype=shares.dtype, generator=generator, device=shares.device)
    return torch.searchsorted(shares, uniform, right=True)
