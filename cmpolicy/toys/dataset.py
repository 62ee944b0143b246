"""The toys by name, and the dataset that trains on one.

The one-dimensional means and deviations are those of Moritz Reuss's "Consistency Models 1D Toy
Tasks" (github.com/mbreuss/consistency_models_toy_task), whose names work too. There the uneven
mixture has the density of weights 0.7 and 0.3, but half of its samples come from either side;
here they are drawn as the density says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

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
# Where the condition is a number, each has few samples near it: so many times the training set, and
# with every batch so many times its samples as references (benchmarks/results/toys_search.md).
MORE_SAMPLES, MORE_REFERENCES = 40, 4


class Bandit(GaussianMixture):
    """Actions of a behaviour policy in [−1, 1]^d, and a reward with one bump at each of its modes.

    r(a) = Σ_k r_k exp(−‖a − m_k‖²/(2 width²)). The behaviour prefers a worse mode, so that
    cloning and improving are told apart.
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
        """Reward of actions (n, d), differentiable, (n,) of the same dtype and device."""
        distance = (actions[:, None] - self.means.to(actions)).square().sum(-1)
        return torch.exp(-0.5 * distance / self.width**2) @ self.rewards.to(actions)

    def mass(self, actions: Any) -> Tensor:
        """Share of the actions (n, d) that lies nearest to each mode, (k,) float64."""
        nearest = torch.cdist(torch.as_tensor(actions).detach().cpu().double(), self.means).argmin(
            1
        )
        return torch.bincount(nearest, minlength=len(self.means)).double() / len(nearest)

    def transitions(self, n: int, generator: torch.Generator | None = None) -> TransitionDataset:
        """`n` one-step episodes with the observation 0, for an agent of offline RL."""
        actions, nothing = self.sample(n, generator).clamp(-1, 1), torch.zeros(n, 1)
        reward = self.reward(actions)
        info = DatasetInfo(
            "bandit", "toy", transitions=n, episodes=n,
            mean_return=float(reward.mean()), std_return=float(reward.std(correction=0)),
        )  # fmt: skip
        every = torch.ones(n)
        transitions = TransitionBatch.of((nothing, actions, reward, nothing, every))
        return TransitionDataset(transitions, every.bool(), info)


def _ring(count: int, radius: float, turn: Tensor | float = 0.0) -> Tensor:
    """`count` points on a circle, the first at angle `turn`; (count, 2), or (n, count, 2)."""
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    angle = angle + torch.as_tensor(turn, dtype=torch.float64)[..., None]
    return radius * torch.stack((angle.cos(), angle.sin()), dim=-1)


def _upper_moon(u: Tensor) -> Tensor:
    """scikit-learn's half circle, twice as large, the pair centred on the origin."""
    angle = math.pi * u
    return torch.stack((2 * angle.cos() - 1, 2 * angle.sin() - 0.5), dim=1)


def _lower_moon(u: Tensor) -> Tensor:
    return -_upper_moon(1 - u)


def _both(first: Tensor, second: Tensor, u: Tensor) -> Tensor:
    return torch.where((u < 0.5)[:, None], first, second)


def _two_moons(u: Tensor) -> Tensor:
    half = (2 * u) % 1
    return _both(_upper_moon(half), _lower_moon(half), u)


def _swiss_roll(u: Tensor) -> Tensor:
    """scikit-learn's roll seen from its end, a fifth of its size."""
    angle = 1.5 * math.pi * (1 + 2 * u)
    return angle[:, None] / 5 * torch.stack((angle.cos(), angle.sin()), dim=1)


def _spiral(u: Tensor) -> Tensor:
    """Two arms of one and a half turns; √ spreads the points evenly along them."""
    angle = 3 * math.pi * ((2 * u) % 1).sqrt()
    arm = angle[:, None] / math.pi * torch.stack((angle.cos(), angle.sin()), dim=1)
    return _both(arm, -arm, u)


def _moving_means(c: Tensor) -> Tensor:
    """−1.5 + c/2 and 1.5 + c, (n, 2, 1)."""
    return torch.stack((c / 2 - 1.5, c + 1.5), dim=1)[..., None]


def _gaussian(mean: float, std: float) -> GaussianMixture:
    return GaussianMixture([1.0], [[mean]], std)


TOYS: dict[str, Toy | ConditionalToy] = {
    # one-dimensional
    "single_gaussian": _gaussian(1.0, 0.2),
    "two_gmm": GaussianMixture([0.5, 0.5], [[-1.5], [1.5]], 0.3),
    "uneven_two_gmm": GaussianMixture([0.7, 0.3], [[-1.5], [1.5]], [0.3, 0.2]),
    "three_gmm": GaussianMixture([1 / 3] * 3, [[-1.5], [0.0], [1.5]], 0.2),
    # two-dimensional
    "eight_gaussians": GaussianMixture([1 / 8] * 8, _ring(8, 2.0), 0.2),
    "two_moons": NoisyCurve(_two_moons, 0.1),
    "checkerboard": Checkerboard(),
    "swiss_roll": NoisyCurve(_swiss_roll, 0.1),
    "spiral": NoisyCurve(_spiral, 0.1),
    # the condition is the component's label
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
    # actions and rewards; the better mode is the rarer one
    "bandit": Bandit([0.7, 0.3], [[-0.6], [0.6]], 0.08, rewards=[0.5, 1.0]),
    "bandit_2d": Bandit([0.4, 0.3, 0.2, 0.1], _ring(4, 0.6), 0.08, rewards=[0.25, 0.5, 0.75, 1.0]),
}

ALIASES = {
    f"{name}_1D": name for name in ("single_gaussian", "two_gmm", "uneven_two_gmm", "three_gmm")
}


def find_toy(name: str) -> Toy | ConditionalToy:
    """The toy of that name, or of its alias.

    Raises:
        InputError: no such toy; all that exist are listed.
    """
    toy = TOYS.get(ALIASES.get(name, name))
    if toy is None:
        raise InputError(f"no toy is named {name!r}; choose one of {', '.join([*TOYS, *ALIASES])}")
    return toy


class ToyBatch(NamedTuple):
    """`B` samples, float32 on one device."""

    x: Tensor  # (B, dim)
    condition: Tensor | None  # (B, condition_dim), None for a toy without one
    references: ToyBatch | None = None  # more, for the stable target where c is a number


class ToyDataset:
    """Batches of a toy, from a fixed training set or fresh ones each time.

    Batches are drawn with torch's global generator, whose state is in a checkpoint. The training
    set is drawn once with its own seed, which does not touch that generator.

    Args:
        toy: a toy or its name.
        size: samples in the training set; None draws fresh samples for every batch, on the CPU.
            If not given, 20,000, and forty times as many where the condition is a number.
        seed: of the training set.

    Attributes:
        x: (size, dim) and condition (size, condition_dim): the training set, None when fresh.
        mean: (dim,) float32, of the training set, or of the distribution when fresh.
        std: likewise, one number over all coordinates: σ_d.
    """

    def __init__(
        self,
        toy: str | Toy | ConditionalToy,
        size: int | Literal["default"] | None = "default",
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.toy = find_toy(toy) if isinstance(toy, str) else toy
        self.device = torch.device(device)
        self.dim = self.toy.dim
        self.condition_dim = getattr(self.toy, "condition_dim", 0)
        self.x: Tensor | None = None
        self.condition: Tensor | None = None
        by_number = isinstance(self.toy, MovingMixture)
        self.references = MORE_REFERENCES if by_number else 0  # for each sample of a batch
        if size == "default":
            size = TRAINING_SAMPLES * (MORE_SAMPLES if by_number else 1)
        if size is None:
            self.mean, self.std = self.toy.mean.float().to(self.device), self.toy.std
            return
        if size < 2:
            raise InputError(f"size is {size}, expected at least 2 samples, or none for fresh ones")
        self.x, self.condition, _ = self._draw(size, torch.Generator().manual_seed(seed))
        self.mean = self.x.mean(0)
        self.std = float((self.x - self.mean).square().mean().sqrt())

    def _draw(self, n: int, generator: torch.Generator | None = None) -> ToyBatch:
        if isinstance(self.toy, ConditionalToy):
            x, condition = self.toy.sample(n, generator)
            return ToyBatch(x.to(self.device), condition.to(self.device))
        return ToyBatch(self.toy.sample(n, generator).to(self.device), None)

    def sample(self, batch_size: int) -> ToyBatch:
        """`batch_size` samples, those of a training set with replacement, and their references."""
        batch = self._choose(batch_size)
        if not self.references:
            return batch
        return batch._replace(references=self._choose(batch_size * self.references))

    def _choose(self, n: int) -> ToyBatch:
        if self.x is None:
            return self._draw(n)
        index = torch.randint(len(self.x), (n,), device=self.device)
        return ToyBatch(self.x[index], None if self.condition is None else self.condition[index])
