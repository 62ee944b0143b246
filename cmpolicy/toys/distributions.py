"""Distributions whose density is known: what the toys are made of.

Samples are float32 and drawn on the CPU, from torch's global generator where none is given, so
that a seed means the same numbers whatever the training device. Densities are float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cmpolicy.errors import InputError

CHUNK = 1024  # rows of x at a time: a curve is a mixture of `CURVE_NODES` components
CURVE_NODES = 1024
CONDITION_NODES = 256
EXACT = "donot_use_mm_for_euclid_dist"

Curve = Callable[[Tensor], Tensor]  # u in [0, 1], (n,), to points (n, d)


class Toy(ABC):
    """A distribution on R^d that can be sampled and whose density is known.

    Attributes:
        dim: d.
        mean: (d,) float64.
        std: one number for all coordinates, √(total variance / d): the σ_d of the models.
    """

    dim: int
    mean: Tensor
    std: float

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` independent samples, (n, d) float32."""

    @abstractmethod
    def log_density(self, x: Any) -> Tensor:
        """ln p(x) of points (n, d) as float64 (n,); −inf outside the support."""

    def density(self, x: Any) -> Tensor:
        """p(x) of points (n, d) as float64 (n,)."""
        return self.log_density(x).exp()


class GaussianMixture(Toy):
    """Σ_k w_k N(m_k, s_k² I).

    Args:
        weights: (k,), positive, summing to 1.
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
        for start in range(0, len(points), CHUNK):
            part = points[start : start + CHUNK]
            distance = torch.cdist(part, self.means, compute_mode=EXACT) / self.stds
            rows.append(torch.logsumexp(norm - 0.5 * distance**2, dim=1))
        return torch.cat(rows) if rows else points.new_zeros(0)

    def cdf(self, x: Any) -> Tensor:
        """P(X ≤ x) of points (n,) or (n, 1) as float64 (n,), in one dimension."""
        self._one_dimensional("cdf")
        z = (_points(x, 1) - self.means[:, 0]) / self.stds
        below: Tensor = torch.special.ndtr(z) @ self.weights
        return below

    def quantiles(self, n: int) -> Tensor:
        """The `n` quantiles at (i − ½)/n, (n, 1) float64: a truth without sampling noise."""
        self._one_dimensional("quantiles")
        level = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        reach = 40 * self.stds
        low = (self.means[:, 0] - reach).min().expand(n)
        high = (self.means[:, 0] + reach).max().expand(n)
        for _ in range(80):  # bisection, to the last bit
            middle = (low + high) / 2
            above = self.cdf(middle) > level
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return ((low + high) / 2)[:, None]

    def _one_dimensional(self, what: str) -> None:
        if self.dim != 1:
            raise InputError(f"{what} needs a one-dimensional toy, this one has {self.dim}")


class NoisyCurve(GaussianMixture):
    """curve(u) + noise·z with u uniform on [0, 1].

    Its density ∫N(x; curve(u), noise²)du is taken by the midpoint rule, a thousand nodes that
    lie much closer than `noise`: a mixture. Samples are exact.
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
        dim: of x; `condition_dim` of the condition.
        conditions: (m, condition_dim) float32, those at which quality is measured.
        marginal: the distribution of x alone, whose mean and std are the data's.
    """

    dim: int
    condition_dim: int
    conditions: Tensor
    marginal: GaussianMixture

    @property
    def mean(self) -> Tensor:
        """Mean of x, (d,) float64."""
        return self.marginal.mean

    @property
    def std(self) -> float:
        """Standard deviation of x over all conditions."""
        return self.marginal.std

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """x (n, d) and its conditions (n, condition_dim), float32."""

    @abstractmethod
    def given(self, condition: Any) -> GaussianMixture:
        """The exact distribution of x given one condition, (condition_dim,)."""

    def log_density(self, x: Any, condition: Any) -> Tensor:
        """ln p(x | condition) of pairs of rows (n, d), (n, condition_dim) as float64 (n,)."""
        points, given = _points(x, self.dim), _points(condition, self.condition_dim)
        rows, index = torch.unique(given, dim=0, return_inverse=True)
        out = torch.empty(len(points), dtype=torch.float64)
        for i, row in enumerate(rows):
            out[index == i] = self.given(row).log_density(points[index == i])
        return out


class Labelled(ConditionalToy):
    """A mixture of toys; the condition is the one-hot label of the part that x came from."""

    def __init__(self, weights: Sequence[float], parts: Sequence[GaussianMixture]) -> None:
        self.weights, self.parts = torch.tensor(weights, dtype=torch.float64), tuple(parts)
        self.dim, self.condition_dim = parts[0].dim, len(parts)
        self.conditions = torch.eye(len(parts))
        self.marginal = _mixture_of(self.weights, self.parts)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        label = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        every = torch.stack([part.sample(n, generator) for part in self.parts])
        return every[label, torch.arange(n)], self.conditions[label]

    def given(self, condition: Any) -> GaussianMixture:
        label = _points(condition, self.condition_dim)[0]
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
        self.dim, self.condition_dim = self.marginal.dim, 1
        self.conditions = torch.linspace(-0.8, 0.8, 5)[:, None]  # the middles of five equal parts

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        condition = 2 * torch.rand(n, 1, generator=generator) - 1
        resting = self.given(0.0)
        component = torch.multinomial(resting.weights, n, replacement=True, generator=generator)
        means = self.means_at(condition[:, 0].double())[torch.arange(n), component]
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return (means + resting.stds[component, None] * noise).float(), condition

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
    """`x` as float64 points (n, dim) on the CPU; one point (dim,) is taken too, and (n,) in 1-D.

    Raises:
        InputError: another shape.
    """
    points = torch.as_tensor(x).detach().cpu().double()
    if points.ndim < 2:
        points = points.reshape(-1, 1) if dim == 1 else points.reshape(1, -1)
    if points.ndim != 2 or points.shape[1] != dim:
        raise InputError(f"x has shape {tuple(points.shape)}, expected (n, {dim})")
    return points
