"""Define the U-Net of the EDM and ADM family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cmpolicy.images.config import UNetConfig
from cmpolicy.images.unet_layers import Down, GroupNorm, ResidualBlock, Up, zero
from cmpolicy.networks.embeddings import FourierEmbedding


class UNet(nn.Module):
    """F(x, c_noise, label) for images.

    Args:
        shape: (C, H, W) of an image.
        classes: number of class labels; one more embedding stands for no label.
        config: sizes.
        autocast: computes in bfloat16, except normalisation and softmax; weights, input and output
            keep their dtype.

    Raises:
        ValueError: if H or W cannot be halved as often as `config` asks.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int = 0,
        config: UNetConfig | None = None,
        *,
        autocast: bool = False,
    ) -> None:
        super().__init__()
        c = config or UNetConfig()
        colours, *sides = shape
        unit = c.patch * 2 ** (len(c.multipliers) - 1)
        if any(side % unit for side in sides):
            raise ValueError(
                f"images of {sides[0]}×{sides[1]} do not fit network.patch={c.patch} with "
                f"{len(c.multipliers)} network.multipliers, which need multiples of {unit}"
            )
        self.classes, self.patch, self.autocast = classes, c.patch, autocast
        width = 4 * c.channels
        self.noise_embedding = FourierEmbedding(32)
        self.embed_noise = nn.Sequential(
            nn.Linear(self.noise_embedding.dim, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.embed_label = nn.Embedding(classes + 1, width)
        values = colours * c.patch**2
        self.first = nn.Conv2d(values, c.channels, 3, padding=1)
        self._build_blocks(c, sides[0] // c.patch, width)
        self.last_norm = GroupNorm(c.channels * c.multipliers[0])
        self.last = zero(nn.Conv2d(c.channels * c.multipliers[0], values, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _build_blocks(self, c: UNetConfig, side: int, embedding: int) -> None:
        """Build the blocks down and up; each block up takes a skip connection, except resampling.

        Args:
            side: height of the image in points.
            embedding: width of the embedding of noise level and label.
        """

        def block(inputs: int, outputs: int, level: int) -> ResidualBlock:
            attention = side >> level in c.attention
            return ResidualBlock(inputs, outputs, embedding, c.dropout, attention=attention)

        def resampling(width: int, resample: nn.Module) -> ResidualBlock:
            return ResidualBlock(width, width, embedding, c.dropout, resample=resample)

        down: list[ResidualBlock] = []
        widths = [c.channels]  # of the skip connections
        for level, multiplier in enumerate(c.multipliers):
            if level:
                down.append(resampling(widths[-1], Down(c.resample)))
                widths.append(widths[-1])
            for _ in range(c.blocks):
                down.append(block(widths[-1], c.channels * multiplier, level))
                widths.append(c.channels * multiplier)
        self.down: Iterable[ResidualBlock] = nn.ModuleList(down)  # type: ignore[assignment]

        width = widths[-1]
        up = [block(width, width, len(c.multipliers) - 1)]
        for level, multiplier in reversed(list(enumerate(c.multipliers))):
            for _ in range(c.blocks + 1):
                up.append(block(width + widths.pop(), c.channels * multiplier, level))
                width = c.channels * multiplier
            if level:
                up.append(resampling(width, Up(c.resample)))
        self.up: Iterable[ResidualBlock] = nn.ModuleList(up)  # type: ignore[assignment]

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Compute F(x, c_noise, label).

        Args:
            x: (B, C, H, W).
            c_noise: (B,).
            condition: class labels (B,) int64, negative for no label; None for no labels at all.

        Returns:
            (B, C, H, W) in the dtype of x; zero before training.
        """
        autocast = self.autocast and x.dtype == torch.float32
        with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
            return self._compute(x, c_noise, condition).to(x.dtype)

    def _compute(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        label = torch.full_like(c_noise, -1, dtype=torch.int64) if condition is None else condition
        label = torch.where(label < 0, self.classes, label)
        embedding = self.embed_noise(self.noise_embedding(c_noise)) + self.embed_label(label)
        embedding = functional.silu(embedding)
        h = self.first(functional.pixel_unshuffle(x, self.patch))
        skips = [h]
        for block in self.down:
            h = block(h, embedding)
            skips.append(h)
        for i, block in enumerate(self.up):
            if i and not isinstance(block.resample, Up):
                h = torch.cat((h, skips.pop()), dim=1)
            h = block(h, embedding)
        h = self.last(functional.silu(self.last_norm(h)))
        return functional.pixel_shuffle(h, self.patch)
