"""One-step and multistep sampling from a consistency function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from cmpolicy.consistency.parameterization import LevelFunction, Parameterization
from cmpolicy.consistency.randomness import Generators, normal_like
from cmpolicy.consistency.schedules import karras_sigmas


def multistep(
    f: LevelFunction,
    noise: Tensor,
    levels: Sequence[float],
    boundary: float = 0.0,
    generator: Generators = None,
) -> Tensor:
    """Algorithm 1 of Song et al. 2023: x ← f(σ₁ z, σ₁), then x ← f(x + √(σ² − ε²) z', σ).

    One level gives one-step sampling. Differentiable with respect to f; runs in the dtype of
    `noise`.

    Args:
        f: (x_σ (B, …), σ (B,)) → x₀ (B, …).
        noise: z ~ N(0, 1), (B, …).
        levels: strictly decreasing noise levels, the first one σ_max.
        boundary: ε, the level at which f is the identity.

    Raises:
        ValueError: if `levels` is empty, not strictly decreasing, or reaches below `boundary`.
    """
    return multistep_path(f, noise, levels, boundary, generator)[-1]


def multistep_path(
    f: LevelFunction,
    noise: Tensor,
    levels: Sequence[float],
    boundary: float = 0.0,
    generator: Generators = None,
) -> list[Tensor]:
    """The noisy points x_σ at each of `levels`, then the sample: len(levels) + 1 tensors."""
    check_levels(levels, boundary)
    path = [levels[0] * noise]
    x = f(path[0], noise.new_full((noise.shape[0],), levels[0]))
    for sigma in levels[1:]:
        z = normal_like(x, generator)
        path.append(x + (sigma**2 - boundary**2) ** 0.5 * z)
        x = f(path[-1], x.new_full((x.shape[0],), sigma))
    return [*path, x]


def check_levels(levels: Sequence[float], boundary: float) -> None:
    """Raise ValueError unless `levels` decreases strictly and stays above `boundary`."""
    decreasing = all(a > b for a, b in pairwise(levels))
    if not levels or not decreasing or not levels[-1] > boundary or not math.isfinite(levels[0]):
        raise ValueError(
            f"levels must be strictly decreasing and above {boundary:g}, got {list(levels)}"
        )


def grid_levels(
    indices: Sequence[int], num_levels: int, parameterization: Parameterization
) -> list[float]:
    """Levels of a Karras grid by index, 0 = σ_max: OpenAI's `ts=0,22,39` of 40 levels.

    The last index, N−1, is ε itself, where f is the identity: it is left out.
    """
    p = parameterization
    sigmas = karras_sigmas(num_levels, p.sigma_min, p.sigma_max).tolist()
    return [sigmas[i] for i in indices if i < num_levels - 1]


def few_step_levels(steps: int, parameterization: Parameterization) -> list[float]:
    """`steps` levels from σ_max down: the Karras grid of steps + 1 levels without its end ε."""
    p = parameterization
    return karras_sigmas(steps + 1, p.sigma_min, p.sigma_max).tolist()[:-1]


def find_mode(samples: Tensor, iterations: int = 5) -> Tensor:
    """Where samples lie closest together, (B, n, d) → (B, d): Comaniciu & Meer 2002, eq. 20.

    Mean shift from the sample of the highest density under the kernel exp(−D²/2). D² is the mean
    over the entries of the squared differences, or a third of the largest if that is more: however
    many entries agree, samples that are far apart in one are not averaged.
    """
    entries = samples.mT.contiguous()  # (B, d, n): reductions over d are then over whole rows
    densest = _kernel(entries[..., :, None] - entries[..., None, :]).sum(2).argmax(1)
    index = densest[:, None, None].expand(-1, entries.shape[1], 1)
    found = entries.gather(2, index)  # (B, d, 1)
    for _ in range(iterations):
        weights = _kernel(entries - found)[:, None]  # (B, 1, n)
        found = (weights * entries).sum(2, keepdim=True) / weights.sum(2, keepdim=True)
    return found.squeeze(2)


def _kernel(differences: Tensor) -> Tensor:
    """exp(−D²/2), (B, d, …) → (B, …)."""
    squares = differences.square()
    distance = squares.mean(1)
    if squares.shape[1] > 3:  # of three entries the mean is never less than a third of the largest
        distance = torch.maximum(distance, squares.amax(1) / 3)
    return (distance / -2).exp()
