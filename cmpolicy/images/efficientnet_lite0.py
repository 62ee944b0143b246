"""Define EfficientNet-Lite0 (Tan & Le 2019, without squeeze-and-excitation, with ReLU6).

Modules are named as in the published PyTorch weights.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

# Kernel, stride, expansion, output channels of each block: Tan & Le 2019, Table 1.
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
BATCH_NORM_EPS = 1e-3  # TensorFlow's


class SamePadConv(nn.Conv2d):
    """A convolution with TensorFlow's padding: an odd padding has one more pixel at the end."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', ⌈H/stride⌉, ⌈W/stride⌉)"""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        pad = [0, 0, 0, 0]
        for axis, size in enumerate((x.shape[3], x.shape[2])):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pad[2 * axis : 2 * axis + 2] = total // 2, total - total // 2
        return super().forward(F.pad(x, pad))


def _conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> SamePadConv:
    return SamePadConv(inputs, outputs, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)


class Block(nn.Module):
    """An inverted bottleneck: expand, filter each channel, project (Sandler et al. 2018)."""

    def __init__(self, inputs: int, kernel: int, stride: int, expansion: int, outputs: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = _conv(inputs, inner, 1, 1, 1)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _conv(inner, inner, kernel, stride, inner)
        self._bn1 = _norm(inner)
        self._project_conv = _conv(inner, outputs, 1, 1, 1)
        self._bn2 = _norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', ⌈H/stride⌉, ⌈W/stride⌉)"""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        projected: Tensor = self._bn2(self._project_conv(y))
        return x + projected if self.residual else projected


class EfficientNetLite0(nn.Module):
    """4.7M parameters, trained on ImageNet at 224 × 224 with pixels as (x − 127)/128."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _conv(3, STEM, 3, 2, 1)
        self._bn0 = _norm(STEM)
        widths = [STEM, *(block[-1] for block in BLOCKS)]
        self._blocks = nn.ModuleList(
            Block(width, *block) for width, block in zip(widths, BLOCKS, strict=False)
        )
        self._conv_head = _conv(widths[-1], FEATURES, 1, 1, 1)
        self._bn1 = _norm(FEATURES)
        self._fc = nn.Linear(FEATURES, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """Compute the input of the last linear layer: (B, 3, H, W) → (B, 1280)."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        pooled: Tensor = F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits of ImageNet's classes: (B, 3, H, W) → (B, 1000)."""
        logits: Tensor = self._fc(self.features(x))
        return logits
