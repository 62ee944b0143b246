"""Where random numbers come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Draws(NamedTuple):
    """All that a loss draws for a batch."""

    noise: Tensor  # z ~ N(0, 1), (B, …)
    uniform: Tensor  # of [0, 1), (B,), from which levels follow

    def part(self, samples: slice) -> Draws:
        """Those of some of the samples."""
        return Draws(self.noise[samples], self.uniform[samples])


# For a loss: torch's global generator, another one, or what was drawn already.
Randomness = torch.Generator | Draws | None

# For a sampler: torch's global generator, another one, or one a sample, so that a sample does not
# depend on those beside it.
Generators = torch.Generator | Sequence[torch.Generator] | None


def draw(x0: Tensor, randomness: Randomness = None) -> Draws:
    """The draws for x0 (B, …), in its dtype and on its device."""
    if isinstance(randomness, Draws):
        return randomness
    noise = torch.randn(x0.shape, generator=randomness, device=x0.device, dtype=x0.dtype)
    uniform = torch.rand(x0.shape[0], generator=randomness, device=x0.device, dtype=x0.dtype)
    return Draws(noise, uniform)


def normal_like(x: Tensor, generators: Generators) -> Tensor:
    """z ~ N(0, 1) of the shape, dtype and device of x (B, …).

    Args:
        generators: one, or B of them, on any device.
    """
    if not isinstance(generators, Sequence):
        return torch.randn(x.shape, generator=generators, device=x.device, dtype=x.dtype)
    if len(generators) != len(x):
        raise ValueError(f"got {len(generators)} generators for {len(x)} samples")
    rows = [
        torch.randn(x.shape[1:], generator=g, device=g.device, dtype=x.dtype) for g in generators
    ]
    return torch.stack(rows).to(x.device)
