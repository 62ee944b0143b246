"""Exponential moving averages of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def ema_update(average: nn.Module, model: nn.Module, decay: float | Tensor) -> None:
    """average ← decay · average + (1 − decay) · model, over parameters; buffers are copied.

    Args:
        average, model: two modules of the same structure.
        decay: in [0, 1]; a number, or a tensor on the device of the weights.
    """
    old: list[Tensor] = list(average.parameters())
    new: list[Tensor] = list(model.parameters())
    weight = 1 - decay
    if isinstance(weight, Tensor):
        for a, b in zip(old, new, strict=True):
            a.lerp_(b, weight.to(a.dtype))
    else:
        torch._foreach_lerp_(old, new, weight)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)


def rising_decay(decay: float, step: int | Tensor) -> float | Tensor:
    """min(decay, (1 + k)/(10 + k)) for update k = 0, 1, …: an average that forgets its start.

    Args:
        decay: where it ends.
        step: k; for a tensor () the decay is one on its device.
    """
    rising = (1 + step) / (10 + step)
    return rising.clamp(max=decay) if isinstance(rising, Tensor) else min(decay, rising)
