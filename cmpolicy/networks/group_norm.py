"""Group normalisation with a forward-mode derivative for any memory format."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

GROUP_CHANNELS = 4  # at least
MAX_GROUPS = 32


class GroupNorm(nn.Module):
    """Wu & He 2018, with as many groups as EDM's networks have where that divides the channels.

    It computes in the type of its weights: the sums need float32, and a CPU has no quick way in
    bfloat16. PyTorch's own has no forward-mode derivative for channels-last tensors.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = math.gcd(MAX_GROUPS, channels // GROUP_CHANNELS), eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape and type."""
        wide = x.to(self.weight.dtype)
        y: Tensor = Normalize.apply(wide, self.weight, self.bias, self.groups, self.eps)[0]
        return y.to(x.dtype)


class Normalize(torch.autograd.Function):
    """PyTorch's kernels, and eq. 2 of Wu & He 2018 differentiated along a direction."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        b, c, height, width = x.shape
        return torch.native_group_norm(x, weight, bias, b, c, height * width, groups, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, ctx.groups, _ = inputs
        _, mean, deviation = output
        ctx.mark_non_differentiable(mean, deviation)
        ctx.save_for_backward(x, weight, mean, deviation)
        ctx.save_for_forward(x, weight, mean, deviation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, reciprocal = ctx.saved_tensors
        b, c, height, width = x.shape
        channels_last = x.is_contiguous(memory_format=torch.channels_last) and x.is_cpu
        layout = torch.channels_last if channels_last else torch.contiguous_format
        gradient, x = (t.contiguous(memory_format=layout) for t in (gradients[0], x))
        found = torch.ops.aten.native_group_norm_backward(
            gradient, x, mean, reciprocal, weight, b, c, height * width, ctx.groups,
            ctx.needs_input_grad[:3],
        )  # fmt: skip
        return *found, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None, None]:
        x, weight, mean, reciprocal = ctx.saved_tensors
        dx, d_weight, d_bias = tangents[:3]
        b, c = x.shape[:2]

        def spread(of_groups: Tensor) -> Tensor:
            return of_groups.reshape(b, -1, 1).expand(-1, -1, c // ctx.groups).reshape(b, c, 1, 1)

        def group_mean(of_points: Tensor) -> Tensor:
            return spread(of_points.mean((2, 3)).view(b, ctx.groups, -1).mean(2))

        normal = (x - spread(mean)) * spread(reciprocal)
        change = torch.zeros_like(x)
        if dx is not None:
            change = dx - group_mean(dx) - normal * group_mean(normal * dx)
            change = weight[:, None, None] * spread(reciprocal) * change
        if d_weight is not None:
            change = change + d_weight[:, None, None] * normal
        if d_bias is not None:
            change = change + d_bias[:, None, None]
        return change, None, None
