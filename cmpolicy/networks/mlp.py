"""The multilayer perceptron that denoises vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cmpolicy.networks.embeddings import EMBEDDINGS
from cmpolicy.networks.linear import Linear
from cmpolicy.networks.mish import Mish

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "mish": Mish}


class ConditionalMLP(nn.Module):
    """F(x, c_noise, condition) for vectors: one MLP over their concatenation.

    Args:
        dim: dimension of x and of the output.
        condition_dim: dimension of the condition, 0 for none.
        hidden: widths of the hidden layers.
        activation: a name in ACTIVATIONS.
        embedding: a name in EMBEDDINGS, how the noise level enters.
    """

    def __init__(
        self,
        dim: int,
        condition_dim: int = 0,
        hidden: Sequence[int] = (256, 256, 256),
        activation: str = "silu",
        embedding: str = "fourier",
    ) -> None:
        super().__init__()
        self.embedding = EMBEDDINGS[embedding]()
        widths = [dim + self.embedding.dim + condition_dim, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [Linear(inputs, outputs), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, Linear(widths[-1], dim))

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, dim), (B,) or embedded already (B, embedding.dim), (B, condition_dim) → (B, dim)

        A level that all of x share may come once, (1,) or (1, embedding.dim).
        """
        level = self.embedding(c_noise) if c_noise.ndim == 1 else c_noise
        level = level.expand(x.shape[0], -1)
        h = torch.cat((x, level) if condition is None else (x, level, condition), dim=1)
        for layer in self.layers:
            # Not layer(h): for one sample, what looks for hooks takes as long as the product.
            h = layer.forward(h)
        return h
