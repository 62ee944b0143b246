"""Return weighting: good episodes are imitated more often than others."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

ABSURD_SPREADS = 10.0  # beyond the others by this many times their range
FEW = 10  # episodes, of which none can be called absurd


@dataclass(frozen=True)
class ReturnWeights:
    """Weights ∝ exp(G/α) of the steps of an episode (Hong et al. 2023, eq. 8).

    G is the episode's return scaled to [0, 1] over `usual_range` of the data's returns; an absurd
    one counts as the nearest usual one.

    Attributes:
        temperature: α > 0; near 0 only the best episodes count.
        worst, best: usual returns of the data's episodes.
        shares: see `shares_of`, of the data's transitions.
    """

    temperature: float
    worst: float
    best: float
    shares: Tensor

    @classmethod
    def of(cls, returns: Tensor, ends: Tensor, temperature: float) -> ReturnWeights:
        """Weigh data of these returns, (episodes,), and these last transitions, (N,) bool."""
        worst, best = usual_range(returns)
        weights = cls(temperature, worst, best, returns)
        exponents = weights.exponents(returns.clamp(worst, best).to(ends.device))
        return replace(weights, shares=shares_of(exponents[ends.cumsum(0) - ends.long()]))

    def exponents(self, returns: Tensor) -> Tensor:
        """Give the logarithms of weights of episodes, which may be better than any in the data."""
        return (returns - self.best) / max(self.best - self.worst, 1e-12) / self.temperature

    def at(self, temperature: float) -> ReturnWeights:
        """Weigh the same returns at another temperature."""
        own = self.shares.diff(prepend=self.shares.new_zeros(1))
        exponents = own.log() * (self.temperature / temperature)
        return replace(self, temperature=temperature, shares=shares_of(exponents))

    def to(self, device: torch.device | str) -> ReturnWeights:
        """Give the same weights on `device`."""
        return replace(self, shares=self.shares.to(device))


def usual_range(returns: Tensor) -> tuple[float, float]:
    """Find the least and the largest return, (episodes,), but for absurd ones.

    Hundredths at both ends, at least one episode, are compared with the range of the others: one
    that lies further outside than `ABSURD_SPREADS` times this range, such as a return of 10⁹ by a
    fault of a simulator, would make all others alike. It is left out, with a warning.
    """
    ordered = returns.double().sort().values
    ends = max(1, len(ordered) // 100)
    usual = ordered[ends:-ends] if len(ordered) >= FEW else ordered
    slack = ABSURD_SPREADS * (usual[-1] - usual[0])
    if slack > 0:
        inside = (ordered >= usual[0] - slack) & (ordered <= usual[-1] + slack)
        if not inside.all():
            logger.warning(
                "%d of %d episodes return %s, far beyond the others (%.6g to %.6g); each counts as "
                "the nearest of these",
                *(int((~inside).sum()), len(ordered), ordered[~inside].tolist()[:3]),
                *(float(ordered[inside][0]), float(ordered[inside][-1])),
            )
        ordered = ordered[inside]
    return float(ordered[0]), float(ordered[-1])


def shares_of(exponents: Tensor) -> Tensor:
    """Give the share of each of the weights exp(x), (N,), and all before it: up to 1, float64."""
    shares = exponents.double().softmax(0).cumsum(0)
    return shares / shares[-1]


def draw_shares(shares: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw indices by their shares, (count,) int64. Nothing here waits for the device."""
    uniform = torch.rand(count, dtype=shares.dtype, generator=generator, device=shares.device)
    return torch.searchsorted(shares, uniform, right=True)
