"""Name the toys, and draw training batches from one.

Means and deviations in one dimension are those of Moritz Reuss's "Consistency Models 1D Toy Tasks"
(github.com/mbreuss/consistency_models_toy_task), whose names are aliases. Its uneven mixture has
weights 0.7 and 0.3 in its density but draws half of the samples from either side; here samples
follow the density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cmpolicy.datasets.transitions import DatasetInfo, TransitionBatch, TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.toys.distributions import (
    Checkerboard,
    ConditionalToy,
    GaussianMixture,
    Labelled,
    MovingMixture,
    NoisyCurve,
    Toy,
)

TRAINING_SAMPLES = 20_000
# A numeric condition leaves few samples near each value: the training set is so many times larger,
# and each batch has so many references per sample (benchmarks/results/toys_search.md).
MORE_SAMPLES, MORE_REFERENCES = 40, 4


class Bandit(GaussianMixture):
    """Actions of a behaviour policy in [−1, 1]^d, and a reward with one bump per mode.

    r(a) = Σ_k r_k exp(−‖a − m_k‖²/(2 width²)).
    """

    def __init__(
        self, weights: Any, means: Any, stds: Any, rewards: Sequence[float], width: float = 0.2
    ) -> None:
        super().__init__(weights, means, stds)
        self.rewards = torch.as_tensor(rewards, dtype=torch.float64)
        if self.rewards.shape != self.weights.shape:
            raise InputError(f"got {len(self.rewards)} rewards for {len(self.weights)} modes")
        self.width = width

    @property
    def best(self) -> int:
        """Index of the mode with the highest reward."""
        return int(self.rewards.argmax())

    def reward(self, actions: Tensor) -> Tensor:
        """Compute rewards (n,) of actions (n, d), differentiably."""
        distance = (actions[:, None] - self.means.to(actions)).square().sum(-1)
        return torch.exp(-0.5 * distance / self.width**2) @ self.rewards.to(actions)

    def mass(self, actions: Tensor) -> Tensor:
        """Compute the fraction of actions (n, d) nearest to each mode, (k,) float64."""
        nearest = torch.cdist(actions.detach().cpu().double(), self.means).argmin(1)
        return torch.bincount(nearest, minlength=len(self.means)).double() / len(nearest)

    def transitions(self, n: int, generator: torch.Generator | None = None) -> TransitionDataset:
        """Draw `n` one-step episodes with observation 0, for an offline agent."""
        actions, zeros = self.sample(n, generator).clamp(-1, 1), torch.zeros(n, 1)
        reward = self.reward(actions)
        info = DatasetInfo(
            "bandit", "toy", transitions=n, episodes=n,
            mean_return=float(reward.mean()), std_return=float(reward.std(correction=0)),
        )  # fmt: skip
        ends = torch.ones(n)
        transitions = TransitionBatch.of((zeros, actions, reward, zeros, ends))
        return TransitionDataset(transitions, ends.bool(), info)


def _ring(count: int, radius: float, turn: Tensor | float = 0.0) -> Tensor:
    """Place `count` points on a circle, the first at angle `turn`; (…, count, 2)."""
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    angle = angle + torch.as_tensor(turn, dtype=torch.float64)[..., None]
    return radius * torch.stack((angle.cos(), angle.sin()), dim=-1)


def _upper_moon(u: Tensor) -> Tensor:
    """scikit-learn's half circle, twice as large, with the pair centred on the origin."""
    angle = math.pi * u
    return torch.stack((2 * angle.cos() - 1, 2 * angle.sin() - 0.5), dim=1)


def _lower_moon(u: Tensor) -> Tensor:
    return -_upper_moon(1 - u)


def _two_moons(u: Tensor) -> Tensor:
    half = (2 * u) % 1
    return torch.where((u < 0.5)[:, None], _upper_moon(half), _lower_moon(half))


def _swiss_roll(u: Tensor) -> Tensor:
    """scikit-learn's roll from its end, a fifth of its size."""
    angle = 1.5 * math.pi * (1 + 2 * u)
    return angle[:, None] / 5 * torch.stack((angle.cos(), angle.sin()), dim=1)


def _spiral(u: Tensor) -> Tensor:
    """Two arms of one and a half turns; the root spaces points evenly along them."""
    angle = 3 * math.pi * ((2 * u) % 1).sqrt()
    arm = angle[:, None] / math.pi * torch.stack((angle.cos(), angle.sin()), dim=1)
    return torch.where((u < 0.5)[:, None], arm, -arm)


def _moving_means(c: Tensor) -> Tensor:
    """−1.5 + c/2 and 1.5 + c, (n, 2, 1)."""
    return torch.stack((c / 2 - 1.5, c + 1.5), dim=1)[..., None]


def _gaussian(mean: float, std: float) -> GaussianMixture:
    return GaussianMixture([1.0], [[mean]], std)


TOYS: dict[str, Toy | ConditionalToy] = {
    # one dimension
    "single_gaussian": _gaussian(1.0, 0.2),
    "two_gmm": GaussianMixture([0.5, 0.5], [[-1.5], [1.5]], 0.3),
    "uneven_two_gmm": GaussianMixture([0.7, 0.3], [[-1.5], [1.5]], [0.3, 0.2]),
    "three_gmm": GaussianMixture([1 / 3] * 3, [[-1.5], [0.0], [1.5]], 0.2),
    # two dimensions
    "eight_gaussians": GaussianMixture([1 / 8] * 8, _ring(8, 2.0), 0.2),
    "two_moons": NoisyCurve(_two_moons, 0.1),
    "checkerboard": Checkerboard(),
    "swiss_roll": NoisyCurve(_swiss_roll, 0.1),
    "spiral": NoisyCurve(_spiral, 0.1),
    # the condition is the label of the component
    "two_gmm_label": Labelled([0.5, 0.5], [_gaussian(-1.5, 0.3), _gaussian(1.5, 0.3)]),
    "uneven_two_gmm_label": Labelled([0.7, 0.3], [_gaussian(-1.5, 0.3), _gaussian(1.5, 0.2)]),
    "three_gmm_label": Labelled([1 / 3] * 3, [_gaussian(m, 0.2) for m in (-1.5, 0.0, 1.5)]),
    "eight_gaussians_label": Labelled(
        [1 / 8] * 8, [GaussianMixture([1.0], m[None], 0.2) for m in _ring(8, 2.0)]
    ),
    "two_moons_label": Labelled(
        [0.5, 0.5], [NoisyCurve(_upper_moon, 0.1), NoisyCurve(_lower_moon, 0.1)]
    ),
    # the condition is a number in [−1, 1]: means that move, a ring that turns by ±22.5°
    "moving_two_gmm": MovingMixture([0.7, 0.3], _moving_means, [0.3, 0.2]),
    "turning_eight_gaussians": MovingMixture(
        [1 / 8] * 8, lambda c: _ring(8, 2.0, c * math.pi / 8), 0.2
    ),
    # actions and rewards; the best mode is the rarest
    "bandit": Bandit([0.7, 0.3], [[-0.6], [0.6]], 0.08, rewards=[0.5, 1.0]),
    "bandit_2d": Bandit([0.4, 0.3, 0.2, 0.1], _ring(4, 0.6), 0.08, rewards=[0.25, 0.5, 0.75, 1.0]),
}

ALIASES = {
    f"{name}_1D": name for name in ("single_gaussian", "two_gmm", "uneven_two_gmm", "three_gmm")
}


def find_toy(name: str) -> Toy | ConditionalToy:
    """Look up a toy by name or alias.

    Raises:
        InputError: for an unknown name; it lists all names.
    """
    toy = TOYS.get(ALIASES.get(name, name))
    if toy is None:
        raise InputError(f"no toy is named {name!r}; choose one of {', '.join([*TOYS, *ALIASES])}")
    return toy


class ToyBatch(NamedTuple):
    """`B` samples, float32 on one device."""

    x: Tensor  # (B, dim)
    condition: Tensor | None  # (B, condition_dim), None for a toy without conditions
    references: ToyBatch | None = None  # for the stable target of numeric conditions


class ToyDataset:
    """A fixed training set of a toy and batches from it.

    Batches are drawn with torch's global generator, whose state is in a checkpoint. The training
    set has a seed of its own and does not touch that generator.

    Args:
        name: of the toy.
        size: number of samples; by default 20,000, and 40 times as many for numeric conditions.
        seed: of the training set.

    Attributes:
        x: (size, dim).
        condition: (size, condition_dim), or None.
        mean: of x, (dim,) float32.
        std: of x, one number for all coordinates: σ_d.

    Raises:
        InputError: for an unknown toy, or fewer than two samples.
    """

    def __init__(
        self,
        name: str,
        size: int | None = None,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.toy = find_toy(name)
        numeric = isinstance(self.toy, MovingMixture)
        self.references = MORE_REFERENCES if numeric else 0  # per sample of a batch
        if size is None:
            size = TRAINING_SAMPLES * (MORE_SAMPLES if numeric else 1)
        if size < 2:
            raise InputError(f"size is {size}, expected at least 2 samples")
        drawn = self.toy.sample(size, torch.Generator().manual_seed(seed))
        x, condition = drawn if isinstance(drawn, tuple) else (drawn, None)
        self.x, self.condition = x.to(device), None if condition is None else condition.to(device)
        self.dim, self.condition_dim = x.shape[1], 0 if condition is None else condition.shape[1]
        self.mean = self.x.mean(0)
        self.std = float((self.x - self.mean).square().mean().sqrt())

    def sample(self, batch_size: int) -> ToyBatch:
        """Draw `batch_size` samples with replacement, and their references."""
        batch = self._draw(batch_size)
        if not self.references:
            return batch
        return batch._replace(references=self._draw(batch_size * self.references))

    def _draw(self, n: int) -> ToyBatch:
        index = torch.randint(len(self.x), (n,), device=self.x.device)
        return ToyBatch(self.x[index], None if self.condition is None else self.condition[index])
