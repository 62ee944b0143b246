"""Define the layers of the U-Net: normalisation, resampling, attention, the residual block."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cmpolicy.images.config import GROUP_CHANNELS
from cmpolicy.networks.shared_dropout import SharedDropout

HEAD_CHANNELS = 64
MAX_GROUPS = 32


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) with EDM's number of groups where it divides the channels.

    It computes in the dtype of its weights: the sums need float32, and bfloat16 is slow on a CPU.
    PyTorch's own layer has no forward-mode derivative for channels-last tensors.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = math.gcd(MAX_GROUPS, channels // GROUP_CHANNELS), eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W); shape and dtype stay."""
        wide = x.to(self.weight.dtype)
        arguments = (wide, self.weight, self.bias, self.groups, self.eps)
        y: Tensor = _Normalize.apply(*arguments)[0]  # type: ignore[no-untyped-call]
        return y.to(x.dtype)


class _Normalize(torch.autograd.Function):
    """PyTorch's kernels, with the forward-mode derivative of eq. 2 of Wu & He 2018."""

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


def zero(module: nn.Conv2d) -> nn.Conv2d:
    """Zero the weights, so that a residual branch starts at zero."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class Down(nn.Module):
    """Halve the resolution: (B, C, H, W) → (B, C, H/2, W/2)."""

    kernel: Tensor

    def __init__(self, resample: str) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 1.0] if resample == "pool" else [1.0, 3.0, 3.0, 1.0])
        taps = taps / taps.sum()
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel.shape[-1] == 2:
            return functional.avg_pool2d(x, 2)
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return functional.conv2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


class Up(Down):
    """Double the resolution: (B, C, H, W) → (B, C, 2H, 2W), 4 times the adjoint of `Down`."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel.shape[-1] == 2:
            return functional.interpolate(x, scale_factor=2, mode="nearest")
        kernel = (4 * self.kernel).to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return functional.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


class Attention(nn.Module):
    """Self-attention over the points of an image, in a zero-initialised residual branch.

    It is written out because PyTorch's fused kernels lack the forward-mode derivative that sCT and
    sCD need.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD_CHANNELS)
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Attend over H × W; (B, C, H, W) keeps its shape."""
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1)
        q, k, v = qkv.reshape(b, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5
        y = scores.softmax(-1, dtype=torch.promote_types(x.dtype, torch.float32)).to(v.dtype) @ v
        y = y.transpose(1, 2).reshape(b, height, width, c).permute(0, 3, 1, 2)
        return x + self.out(y)  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two convolutions with a scale and a shift from the embedding between them.

    ADM's block (Dhariwal & Nichol 2021, App. A); `resample` acts inside it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        *,
        attention: bool = False,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = GroupNorm(inputs), GroupNorm(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.affine = nn.Linear(embedding, 2 * outputs)
        self.dropout = SharedDropout(dropout)
        self.resample = resample or nn.Identity()
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, inputs, H, W), embedding (B, E) → (B, outputs, H', W')."""
        h = self.conv1(self.resample(functional.silu(self.norm1(x))))
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        h = self.conv2(self.dropout(functional.silu(h)))
        return self.attention(self.skip(self.resample(x)) + h)  # type: ignore[no-any-return]
