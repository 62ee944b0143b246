"""Dropout whose masks networks can share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SharedDropout(nn.Module):
    """Dropout with one mask for all calls between two `share_masks`; else like any other.

    f_θ and f_θ⁻ of a consistency loss must drop the same values, or their difference is noise.
    A sample's mask is {u + r mod 1 ≥ p}, with u uniform at each place, drawn from a seed that all
    copies of the network share, and r uniform for each sample. Masks of one sample have
    independent places, and those of two samples are independent of each other; a part of a batch
    has the masks that it has in the whole one.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.seed = 0
        self.shifts: Tensor | None = None  # r, (B,)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape; as it is in evaluation mode."""
        if not self.training or self.p == 0:
            return x
        if self.shifts is None:
            return functional.dropout(x, self.p)
        generator = torch.Generator(x.device).manual_seed(self.seed)
        u = torch.rand(x.shape[1:], generator=generator, device=x.device)
        kept = (u + self.shifts[:, None, None, None]).frac() >= self.p
        return x * (kept.to(x.dtype) / (1 - self.p))


def share_masks(network: nn.Module, seed: int, shifts: Tensor | None) -> None:
    """Fix the dropout masks of `network` until the next call; None: fresh ones at every call.

    Args:
        shifts: (B,), uniform in [0, 1), one a sample of the batches to come.
    """
    layers = [m for m in network.modules() if isinstance(m, SharedDropout)]
    for i, layer in enumerate(layers):
        layer.seed, layer.shifts = (seed + i) % 2**63, shifts
