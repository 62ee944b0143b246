"""The U-Net of the EDM and ADM family, from half a million parameters to tens of millions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from cmpolicy.networks.dropout import SharedDropout
from cmpolicy.networks.embeddings import FourierEmbedding
from cmpolicy.networks.group_norm import GROUP_CHANNELS, GroupNorm

RESAMPLERS = ("pool", "fir")
HEAD_CHANNELS = 64


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


def zero(module: nn.Conv2d) -> nn.Conv2d:
    """The same module with zero weights, so that a residual branch begins as nothing."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class Down(nn.Module):
    """Half the resolution: (B, C, H, W) → (B, C, H/2, W/2)."""

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
    """Twice the resolution: (B, C, H, W) → (B, C, 2H, 2W), the adjoint of `Down`, times 4."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel.shape[-1] == 2:
            return functional.interpolate(x, scale_factor=2, mode="nearest")
        kernel = (4 * self.kernel).to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return functional.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


class Attention(nn.Module):
    """Self-attention over all points of an image, with a zero-initialised residual branch.

    Written out: PyTorch's fused kernels have no forward-mode derivative, which sCT and sCD need.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD_CHANNELS)
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1)
        q, k, v = qkv.reshape(b, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5
        y = scores.softmax(-1, dtype=torch.promote_types(x.dtype, torch.float32)).to(v.dtype) @ v
        y = y.transpose(1, 2).reshape(b, height, width, c).permute(0, 3, 1, 2)
        return x + self.out(y)  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two convolutions, the second after a scale and a shift that the noise level and label give.

    ADM's block (Dhariwal & Nichol 2021, App. A), with resampling inside where there is some.
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
        """(B, inputs, H, W), (B, E) → (B, outputs, H', W')."""
        h = self.conv1(self.resample(functional.silu(self.norm1(x))))
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        h = self.conv2(self.dropout(functional.silu(h)))
        return self.attention(self.skip(self.resample(x)) + h)  # type: ignore[no-any-return]


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
