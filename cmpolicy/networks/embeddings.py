"""Embeddings of the noise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cmpolicy.networks.mish import Mish


class FourierEmbedding(nn.Module):
    """[c, sin(ω c), cos(ω c)] with ω spaced geometrically between two frequencies.

    Made for c_noise = ¼ ln σ or TrigFlow's t, both of order one: the frequencies stay low, because
    the derivative of the network with respect to time enters the continuous losses.
    """

    frequencies: Tensor

    def __init__(self, dim: int = 16, low: float = 0.5, high: float = 8.0) -> None:
        super().__init__()
        frequencies = torch.logspace(math.log10(low), math.log10(high), dim // 2)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.dim = 2 * (dim // 2) + 1

    def forward(self, c_noise: Tensor) -> Tensor:
        """(B,) → (B, dim)"""
        phase = c_noise[:, None] * self.frequencies.to(c_noise.dtype)
        return torch.cat((c_noise[:, None], phase.sin(), phase.cos()), dim=1)


class SinusoidalEmbedding(nn.Module):
    """The transformer's embedding (Vaswani et al. 2017, §3.5) and a two-layer network after it.

    As in the published Consistency-AC and Diffusion-QL code, where raw time enters it.
    """

    frequencies: Tensor

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        half = dim // 2
        frequencies = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.network = nn.Sequential(nn.Linear(dim, 2 * dim), Mish(), nn.Linear(2 * dim, dim))
        self.dim = dim

    def forward(self, c_noise: Tensor) -> Tensor:
        """(B,) → (B, dim)"""
        phase = c_noise[:, None] * self.frequencies.to(c_noise.dtype)
        return self.network(torch.cat((phase.sin(), phase.cos()), dim=1))  # type: ignore[no-any-return]


EMBEDDINGS: dict[str, type[FourierEmbedding | SinusoidalEmbedding]] = {
    "fourier": FourierEmbedding,
    "sinusoidal": SinusoidalEmbedding,
}
