"""A distance of pictures as a classifier sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from cmpolicy.consistency.loss_metrics import mean_squared
from cmpolicy.generative.learner import SIGMA_DATA

PIXELS = 0.1  # weight of the pixels themselves, for what a classifier overlooks


class PerceptualDistance:
    """Σ_l E_hw ‖φ̂_l(a) − φ̂_l(b)‖² + 0.1 ‖a − b‖²/d: Zhang et al. 2018 (LPIPS), eq. 1 with w = 1.

    φ_l are a network's feature maps, φ̂_l the same with each pixel's channels of length 1. Song et
    al. 2023, §6.1, distil and train with such a metric.

    Args:
        maps: pixels between −1 and 1, (B, C, H, W) → feature maps, each (B, C', H', W').
        mean, std: of the data's pixels; the models see them shifted, and scaled to σ_d.
    """

    def __init__(self, maps: Callable[[Tensor], Sequence[Tensor]], mean: float, std: float) -> None:
        self.maps, self.mean, self.scale = maps, mean, std / SIGMA_DATA

    def features(self, x0: Tensor) -> list[Tensor]:
        """φ̂_l of x₀ of the models, (B, C, H, W) → each (B, C', H', W')."""
        maps = self.maps(x0 * self.scale + self.mean)
        return [F.normalize(features, dim=1, eps=1e-6) for features in maps]

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, C, H, W), (B, C, H, W) → (B,)."""
        distance = PIXELS * mean_squared(a, b)
        for mine, theirs in zip(self.features(a), self.features(b), strict=True):
            distance = distance + (mine - theirs).square().sum(1).mean((1, 2))
        return distance
