"""Define distributions with a known density, of which the toys consist.

Samples are float32 on the CPU, from torch's global generator by default, so that a seed gives the
same numbers on every device. Densities are float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cmpolicy.errors import InputError

CHUNK = 1024  # points at a time, because a curve is a mixture of CURVE_NODES components
CURVE_NODES = 1024
CONDITION_NODES = 256
EXACT = "donot_use_mm_for_euclid_dist"

Curve = Callable[[Tensor], Tensor]  # u in [0, 1], (n,), to points (n, d)


class Toy(ABC):
    """A distribution on R^d.

    Attributes:
        dim: d.
        mean: (d,) float64.
        std: √(total variance / d), one number for all coordinates: σ_d of the models.
    """

    dim: int
    mean: Tensor
    std: float

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` independent samples, (n, d) float32."""

    @abstractmethod
    def log_density(self, x: Any) -> Tensor:
        """Compute ln p(x) of points (n, d), (n,) float64; −inf outside the support."""

    def density(self, x: Any) -> Tensor:
        """Compute p(x) of points (n, d), (n,) float64."""
        return self.log_density(x).exp()


class GaussianMixture(Toy):
    """Σ_k w_k N(m_k, s_k² I).

    Args:
        weights: (k,), positive, with sum 1.
        means: (k, d).
        stds: (k,), or one for all.
    """

    def __init__(self, weights: Any, means: Any, stds: Any) -> None:
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        self.means = torch.as_tensor(means, dtype=torch.float64)
        self.stds = torch.as_tensor(stds, dtype=torch.float64).expand(len(self.weights))
        if self.means.ndim != 2 or len(self.means) != len(self.weights):
            raise InputError(
                f"means has shape {tuple(self.means.shape)}, expected (k, d) with one row for "
                f"each of the {len(self.weights)} weights"
            )
        if (self.weights <= 0).any() or abs(float(self.weights.sum()) - 1) > 1e-9:
            raise InputError("the weights of a mixture must be positive and sum to 1")
        if (self.stds <= 0).any():
            raise InputError("the standard deviations of a mixture must be positive")
        self.dim = self.means.shape[1]
        self.mean = self.weights @ self.means
        variance = self.weights @ ((self.means - self.mean) ** 2).mean(1)
        self.std = math.sqrt(float(variance + self.weights @ self.stds**2))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return (self.means[component] + self.stds[component, None] * noise).float()

    def log_density(self, x: Any) -> Tensor:
        points = _points(x, self.dim)
        norm = self.weights.log() - self.dim * (self.stds.log() + 0.5 * math.log(2 * math.pi))
        rows = []
        for part in torch.split(points, CHUNK):
            distance = torch.cdist(part, self.means, compute_mode=EXACT) / self.stds
            rows.append(torch.logsumexp(norm - 0.5 * distance**2, dim=1))
        return torch.cat(rows)

    def cdf(self, x: Any) -> Tensor:
        """Compute P(X ≤ x) of points (n,) or (n, 1), (n,) float64, in one dimension."""
        if self.dim != 1:
            raise InputError(f"cdf needs a one-dimensional toy, this one has {self.dim}")
        z = (_points(x, 1) - self.means[:, 0]) / self.stds
        below: Tensor = torch.special.ndtr(z) @ self.weights
        return below

    def quantiles(self, n: int) -> Tensor:
        """Compute the quantiles at (i − ½)/n, (n, 1) float64: a truth without sampling noise."""
        level = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        reach = 40 * self.stds
        low = (self.means[:, 0] - reach).min().expand(n)
        high = (self.means[:, 0] + reach).max().expand(n)
        for _ in range(80):  # bisection, to the last bit
            middle = (low + high) / 2
            above = self.cdf(middle) > level
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return ((low + high) / 2)[:, None]


class NoisyCurve(GaussianMixture):
    """curve(u) + noise·z with u uniform on [0, 1].

    Samples are exact. The density ∫N(x; curve(u), noise²)du is a mixture at a thousand midpoints,
    which are much closer to each other than `noise`.
    """

    def __init__(self, curve: Curve, noise: float) -> None:
        nodes = (torch.arange(CURVE_NODES, dtype=torch.float64) + 0.5) / CURVE_NODES
        super().__init__([1 / CURVE_NODES] * CURVE_NODES, curve(nodes), noise)
        self.curve, self.noise = curve, noise

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        points = self.curve(torch.rand(n, generator=generator, dtype=torch.float64))
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return (points + self.noise * noise).float()


class Checkerboard(Toy):
    """Uniform on the eight black unit squares of [−2, 2]²."""

    def __init__(self) -> None:
        self.dim, self.mean, self.std = 2, torch.zeros(2, dtype=torch.float64), math.sqrt(4 / 3)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        column = torch.randint(-2, 2, (n,), generator=generator)
        row = 2 * torch.randint(-1, 1, (n,), generator=generator) + column % 2
        inside = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        return (torch.stack((column, row), dim=1) + inside).float()

    def log_density(self, x: Any) -> Tensor:
        points = _points(x, 2)
        on_board = ((points >= -2) & (points < 2)).all(1)
        black = points.floor().sum(1) % 2 == 0
        return torch.where(on_board & black, -math.log(8), -math.inf).double()


class ConditionalToy(ABC):
    """A distribution of (x, condition) whose density of x given the condition is known.

    Attributes:
        conditions: (m, condition_dim) float32, at which quality is measured.
        marginal: the distribution of x alone.
    """

    conditions: Tensor
    marginal: GaussianMixture

    @property
    def dim(self) -> int:
        """Dimension of x."""
        return self.marginal.dim

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw x (n, d) and conditions (n, condition_dim), float32."""

    @abstractmethod
    def given(self, condition: Any) -> GaussianMixture:
        """Return the exact distribution of x given one condition, (condition_dim,)."""


class Labelled(ConditionalToy):
    """A mixture of toys; the condition is the one-hot label of the part that x comes from."""

    def __init__(self, weights: Sequence[float], parts: Sequence[GaussianMixture]) -> None:
        self.weights, self.parts = torch.tensor(weights, dtype=torch.float64), tuple(parts)
        self.conditions = torch.eye(len(parts))
        self.marginal = _mixture_of(self.weights, self.parts)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        label = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        samples = torch.stack([part.sample(n, generator) for part in self.parts])
        return samples[label, torch.arange(n)], self.conditions[label]

    def given(self, condition: Any) -> GaussianMixture:
        label = _points(condition, len(self.parts))[0]
        if not torch.equal(label.sort().values, self.conditions[-1].double()):
            raise InputError(f"condition is {label.tolist()}, expected a one-hot label")
        return self.parts[int(label.argmax())]


class MovingMixture(ConditionalToy):
    """A mixture whose means move with a condition c, uniform on [−1, 1].

    Args:
        means_at: c (n,) float64 to means (n, k, d).
    """

    def __init__(self, weights: Any, means_at: Callable[[Tensor], Tensor], stds: Any) -> None:
        self.weights, self.means_at, self.stds = weights, means_at, stds
        nodes = (torch.arange(CONDITION_NODES, dtype=torch.float64) + 0.5) / CONDITION_NODES
        parts = [self.given(2 * node - 1) for node in nodes]
        self.marginal = _mixture_of(torch.full_like(nodes, 1 / CONDITION_NODES), parts)
        self.conditions = torch.linspace(-0.8, 0.8, 5)[:, None]  # the middles of five equal parts

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        condition = 2 * torch.rand(n, 1, generator=generator) - 1
        at_zero = self.given(0.0)
        component = torch.multinomial(at_zero.weights, n, replacement=True, generator=generator)
        means = self.means_at(condition[:, 0].double())[torch.arange(n), component]
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return (means + at_zero.stds[component, None] * noise).float(), condition

    def given(self, condition: Any) -> GaussianMixture:
        c = _points(condition, 1)[0]
        if abs(float(c)) > 1:
            raise InputError(f"condition is {float(c)}, expected a number in [-1, 1]")
        return GaussianMixture(self.weights, self.means_at(c)[0], self.stds)


def _mixture_of(weights: Tensor, parts: Sequence[GaussianMixture]) -> GaussianMixture:
    joint = torch.cat([w * part.weights for w, part in zip(weights, parts, strict=True)])
    means, stds = (torch.cat([getattr(part, name) for part in parts]) for name in ("means", "stds"))
    return GaussianMixture(joint / joint.sum(), means, stds)


def _points(x: Any, dim: int) -> Tensor:
    """Cast points to (n, dim) float64 on the CPU; (dim,) is one point, and (n,) n points in 1-D.

    Raises:
        InputError: for another shape.
    """
    points = torch.as_tensor(x).detach().cpu().double()
    if points.ndim < 2:
        points = points.reshape(-1, 1) if dim == 1 else points.reshape(1, -1)
    if points.ndim != 2 or points.shape[1] != dim:
        raise InputError(f"x has shape {tuple(points.shape)}, expected (n, {dim})")
    return points
