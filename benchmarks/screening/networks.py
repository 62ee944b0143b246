"""Many networks of one shape as batched products: weights (R, in, out), inputs (R, B, in)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = list[Tensor]
FREQUENCIES = torch.logspace(math.log10(0.5), math.log10(8.0), 8)


def initial_weights(
    count: int, widths: Sequence[int], generator: torch.Generator, device: str, *, norm: bool
) -> Weights:
    """Weights and biases of `count` networks, nn.Linear's law; with `norm`, gains and offsets."""
    weights: Weights = []
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        bound = 1 / math.sqrt(inputs)
        for shape in ((count, inputs, outputs), (count, 1, outputs)):
            uniform = torch.rand(shape, generator=generator)
            weights.append(((2 * uniform - 1) * bound).to(device))
        if norm and i < len(widths) - 2:
            ones = torch.ones(count, 1, outputs, device=device)
            weights += [ones, torch.zeros_like(ones)]
    return weights


def policy_output(weights: Weights, x: Tensor) -> Tensor:
    """An MLP with SiLU: (R, B, in) → (R, B, out)."""
    for i in range(0, len(weights) - 2, 2):
        x = F.silu(torch.baddbmm(weights[i + 1], x, weights[i]))
    return torch.baddbmm(weights[-1], x, weights[-2])


def critic_output(weights: Weights, x: Tensor, *, compiled: bool) -> Tensor:
    """An MLP with layer norm and SiLU; products in bfloat16, the last one in float32."""
    x = x.bfloat16()
    for i in range(0, len(weights) - 2, 4):
        weight, bias, gain, offset = weights[i : i + 4]
        x = torch.baddbmm(bias.bfloat16(), x, weight.bfloat16())
        x = on_device(normalized, x, compiled)(x, gain, offset)
    if weights[-2].shape[-1] == 1:
        return on_device(last_product, x, compiled)(x, weights[-2], weights[-1])
    return torch.baddbmm(weights[-1], x.float(), weights[-2])


def normalized(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """SiLU of the layer norm."""
    x = x.float()
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return F.silu((x - mean) * torch.rsqrt(variance + 1e-5) * gain + offset).bfloat16()


def last_product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One output a network: as a product it would take several times as long."""
    return (x.float() * weight.mT).sum(-1, keepdim=True) + bias


COMPILED: dict[Callable[..., Tensor], Callable[..., Tensor]] = {}


def on_device(function: Callable[..., Tensor], x: Tensor, compiled: bool) -> Callable[..., Tensor]:
    """The function, compiled where it runs on a GPU for one shape again and again."""
    if not (compiled and x.is_cuda):
        return function
    return COMPILED.setdefault(function, torch.compile(function, dynamic=False))


def embedded(c_noise: Tensor, frequencies: Tensor) -> Tensor:
    """[c, sin(ω c), cos(ω c)]: (…,) → (…, 17); FREQUENCIES, on the device."""
    phase = c_noise[..., None] * frequencies
    return torch.cat((c_noise[..., None], phase.sin(), phase.cos()), -1)
