"""The U-Net of the EDM and ADM family, from half a million parameters to tens of millions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from cmpolicy.images.unet_layers import (
    GROUP_CHANNELS,
    Down,
    GroupNorm,
    ResidualBlock,
    Up,
    zero,
)
from cmpolicy.networks.embeddings import FourierEmbedding

RESAMPLERS = ("pool", "fir")


@dataclass
class UNetConfig:
    """Sizes of a U-Net.

    Attributes:
        channels: at the first resolution.
        multipliers: of the channels, one a resolution; each resolution is half of the one before.
        blocks: residual blocks a resolution on the way down; on the way up one more.
        attention: resolutions, in pixels of the image over `patch`, with self-attention.
        patch: pixels a side that enter as channels of one point. 2 makes a network of 28×28 images
            work at 14×14: a quarter of the cost.
        resample: ``pool`` (means of 2×2, nearest neighbour up) or ``fir`` (the filter [1, 3, 3, 1]
            both ways: Karras et al. 2022, DDPM++'s and NCSN++'s difference).
        dropout: share of the hidden values of a residual block.
    """

    channels: int = 64
    multipliers: list[int] = field(default_factory=lambda: [1, 2])
    blocks: int = 1
    attention: list[int] = field(default_factory=list)
    patch: int = 1
    resample: str = "pool"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        positive = (self.channels, self.blocks, self.patch, *self.multipliers)
        if not self.multipliers or min(positive) < 1 or self.channels % GROUP_CHANNELS:
            raise ValueError(
                "a network needs multipliers, blocks and patch of at least 1 and channels in "
                f"steps of {GROUP_CHANNELS}, got {self}"
            )
        if self.resample not in RESAMPLERS or not 0 <= self.dropout < 1:
            raise ValueError(
                f"need resample in {', '.join(RESAMPLERS)} and 0 ≤ dropout < 1, got "
                f"{self.resample!r} and {self.dropout}"
            )


class UNet(nn.Module):
    """F(x, c_noise, label) for images.

    Args:
        shape: (C, H, W) of an image.
        classes: number of class labels; one more stands for no label.
        config: sizes.
        autocast: compute in bfloat16, but for normalisation and softmax; weights, input and
            output stay as they are.

    Raises:
        ValueError: if `shape` cannot be halved as often as the configuration asks.
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
        widths = self.build_down(c, sides[0] // c.patch, width)
        self.build_up(c, sides[0] // c.patch, width, widths)
        self.last_norm = GroupNorm(c.channels * c.multipliers[0])
        self.last = zero(nn.Conv2d(c.channels * c.multipliers[0], values, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def build_down(self, c: UNetConfig, side: int, embedding: int) -> list[int]:
        """The blocks on the way down, and how many channels each leaves for the way up."""
        blocks: list[ResidualBlock] = []
        widths = [c.channels]
        for level, multiplier in enumerate(c.multipliers):
            attention = side >> level in c.attention
            if level:
                down = ResidualBlock(
                    widths[-1], widths[-1], embedding, c.dropout, resample=Down(c.resample)
                )
                blocks.append(down)
                widths.append(widths[-1])
            for _ in range(c.blocks):
                inputs, outputs = widths[-1], c.channels * multiplier
                blocks.append(
                    ResidualBlock(inputs, outputs, embedding, c.dropout, attention=attention)
                )
                widths.append(outputs)
        self.down: Iterable[ResidualBlock] = nn.ModuleList(blocks)  # type: ignore[assignment]
        return widths

    def build_up(self, c: UNetConfig, side: int, embedding: int, widths: list[int]) -> None:
        """The blocks on the way up, of which each that does not resample takes from `widths`."""
        width = widths[-1]
        attention = side >> (len(c.multipliers) - 1) in c.attention
        blocks = [ResidualBlock(width, width, embedding, c.dropout, attention=attention)]
        for level, multiplier in reversed(list(enumerate(c.multipliers))):
            attention = side >> level in c.attention
            for _ in range(c.blocks + 1):
                inputs, outputs = width + widths.pop(), c.channels * multiplier
                blocks.append(
                    ResidualBlock(inputs, outputs, embedding, c.dropout, attention=attention)
                )
                width = outputs
            if level:
                up = Up(c.resample)
                blocks.append(ResidualBlock(width, width, embedding, c.dropout, resample=up))
        self.up: Iterable[ResidualBlock] = nn.ModuleList(blocks)  # type: ignore[assignment]

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """F(x, c_noise, label).

        Args:
            x: (B, C, H, W).
            c_noise: (B,).
            condition: (B,) int64 class labels, negative for none; None for none at all.

        Returns:
            (B, C, H, W), in the dtype of x; zero before training.
        """
        autocast = self.autocast and x.dtype == torch.float32
        with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
            return self.compute(x, c_noise, condition).to(x.dtype)

    def compute(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        """F in the precision of the moment."""
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
