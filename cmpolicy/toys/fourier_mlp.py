"""Define the multilayer perceptron of the toys."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cmpolicy.networks.embeddings import FourierEmbedding


class FourierMLP(nn.Module):
    """F(x, c_noise, condition) for vectors of few dimensions with well separated modes.

    Its input includes sines and cosines of multiples of x, and its weights start with He's
    variance. With x alone and PyTorch's initial weights, a denoiser fits a single Gaussian to a
    mixture for thousands of updates.

    Args:
        dim: dimension of x and of the output.
        condition_dim: dimension of the condition, 0 for none.
        hidden: widths of the hidden layers.
        harmonics: number of multiples x, 2x, …; x has unit variance.
    """

    multiples: Tensor

    def __init__(
        self,
        dim: int,
        condition_dim: int = 0,
        hidden: Sequence[int] = (64, 64, 64),
        harmonics: int = 6,
    ) -> None:
        super().__init__()
        self.register_buffer("multiples", torch.arange(1.0, harmonics + 1), persistent=False)
        self.embedding = FourierEmbedding()
        features = dim * (1 + 2 * harmonics) + self.embedding.dim + condition_dim
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([features, *hidden]):
            linear = nn.Linear(inputs, outputs)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], dim))

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Compute F: x (B, dim), c_noise (B,), condition (B, condition_dim) → (B, dim)."""
        phase = (x[..., None] * self.multiples.to(x.dtype)).flatten(1)
        parts = [x, phase.sin(), phase.cos(), self.embedding(c_noise)]
        if condition is not None:
            parts.append(condition)
        return self.layers(torch.cat(parts, dim=1))  # type: ignore[no-any-return]
