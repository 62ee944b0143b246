"""Means and units of observations, which networks see standardised."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-6  # a smaller standard deviation, relative to an entry's size, is float32's rounding
COLUMNS = 16  # converted to float64 at a time


def means_and_units(observations: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each entry, (N, d) → (d,) each, measured in float64.

    The unit of an entry that is constant but for rounding is its size, or 1 where that is 0.
    """
    columns = range(0, observations.shape[1], COLUMNS)
    parts = [_of_columns(observations[:, i : i + COLUMNS].double()) for i in columns]
    return torch.cat([mean for mean, _ in parts]), torch.cat([unit for _, unit in parts])


def _of_columns(x: Tensor) -> tuple[Tensor, Tensor]:
    std, size = x.std(0, correction=min(1, len(x) - 1)), x.abs().amax(0)
    constant = std <= ROUNDING * size
    return x.mean(0), torch.where(constant, torch.where(size > 0, size, 1.0), std)
