"""EfficientNet-Lite0 (Tan & Le 2019; without squeeze-and-excitation, with ReLU6), for its features.

Modules are named as in the published PyTorch weights.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

# kernel, stride, expansion, channels out: Tan & Le 2019, Table 1, a row a block
BLOCKS = (
    (3, 1, 1, 16),
    (3, 2, 6, 24), (3, 1, 6, 24),
    (5, 2, 6, 40), (5, 1, 6, 40),
    (3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80),
    (5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112),
    (5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192),
    (3, 1, 6, 320),
)  # fmt: skip
STEM, FEATURES, CLASSES = 32, 1280, 1000
BATCH_NORM_EPS = 1e-3


class SamePadConv(nn.Conv2d):
    """A convolution padded as TensorFlow pads it: where that is uneven, more at the end."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', ⌈H/stride⌉, ⌈W/stride⌉)"""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        pad = [0, 0, 0, 0]
        for axis, size in enumerate((x.shape[3], x.shape[2])):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pad[2 * axis : 2 * axis + 2] = total // 2, total - total // 2
        return super().forward(F.pad(x, pad))


def conv(channels_in: int, channels_out: int, kernel: int, stride: int, groups: int) -> SamePadConv:
    """Without a bias: a normalisation follows."""
    return SamePadConv(channels_in, channels_out, kernel, stride, groups=groups, bias=False)


def norm(channels: int) -> nn.BatchNorm2d:
    """With TensorFlow's ε."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)


class Block(nn.Module):
    """An inverted bottleneck: expand, filter each channel, project; Sandler et al. 2018."""

    def __init__(
        self, channels_in: int, kernel: int, stride: int, expansion: int, channels_out: int
    ) -> None:
        super().__init__()
        inner = channels_in * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = conv(channels_in, inner, 1, 1, 1)
            self._bn0 = norm(inner)
        self._depthwise_conv = conv(inner, inner, kernel, stride, inner)
        self._bn1 = norm(inner)
        self._project_conv = conv(inner, channels_out, 1, 1, 1)
        self._bn2 = norm(channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', ⌈H/stride⌉, ⌈W/stride⌉)"""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        projected: Tensor = self._bn2(self._project_conv(y))
        return x + projected if self.residual else projected


class EfficientNetLite0(nn.Module):
    """4.7M parameters; trained on ImageNet at 224 × 224, pixels as (x − 127)/128."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = conv(3, STEM, 3, 2, 1)
        self._bn0 = norm(STEM)
        widths = [STEM, *(block[-1] for block in BLOCKS)]
        self._blocks = nn.ModuleList(
            Block(width, *block) for width, block in zip(widths, BLOCKS, strict=False)
        )
        self._conv_head = conv(widths[-1], FEATURES, 1, 1, 1)
        self._bn1 = norm(FEATURES)
        self._fc = nn.Linear(FEATURES, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, 1280), what the last linear map sees."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        pooled: Tensor = F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, 1000) logits of ImageNet's classes."""
        logits: Tensor = self._fc(self.features(x))
        return logits
