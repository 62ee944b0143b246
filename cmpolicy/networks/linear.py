"""Linear layers whose products may be computed in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 64  # below that many rows or columns of weights, rounding costs time and gains none

_rounded = False


@contextmanager
def bfloat16_products(enabled: bool = True) -> Iterator[None]:
    """Within, the linear layers of this package round the factors of large products to bfloat16.

    Weights, gradients of weights as optimisers see them, biases, activations and all else stay
    float32; so do first and last layers, whose products are small: what enters and what leaves a
    network is not rounded.
    """
    global _rounded  # noqa: PLW0603
    before, _rounded = _rounded, enabled
    try:
        yield
    finally:
        _rounded = before


def uses_bfloat16(x: Tensor, weight: Tensor) -> bool:
    """Whether the product of the two, (…, n, m) each, is taken in bfloat16."""
    return _rounded and x.dtype == torch.float32 and min(weight.shape[-2:]) >= SMALLEST


class Linear(nn.Linear):
    """nn.Linear: (B, in) → (B, out)."""

    def forward(self, x: Tensor) -> Tensor:
        if not uses_bfloat16(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        return F.linear(x.bfloat16(), self.weight.bfloat16()).float() + self.bias
