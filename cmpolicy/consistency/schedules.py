"""Noise levels and curricula of consistency training.

Every function accepts Python numbers or tensors, so that a curriculum can run on the device
without a synchronisation. `progress` is k/K, the fraction of the *whole* training that is done.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def karras_sigma(
    index: Tensor, num_levels: Tensor | int, sigma_min: float, sigma_max: float, rho: float = 7.0
) -> Tensor:
    """Level `index` (0 … N−1, may be fractional) of an *ascending* Karras grid of N levels.

    σ_i = (ε^{1/ρ} + i/(N−1) (σ_max^{1/ρ} − ε^{1/ρ}))^ρ — Song et al. 2023, §5; Karras et al. 2022,
    eq. 5. The two ends are exact.

    Args:
        index: any shape, floating point.
        num_levels: N ≥ 2, a number or a tensor that broadcasts against `index`.

    Returns:
        Noise levels in units of the data, the shape of `index`.
    """
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigma: Tensor = (low + index / (num_levels - 1) * (high - low)) ** rho
    sigma = torch.where(index <= 0, sigma_min, sigma)  # the power rounds at the two ends
    return torch.where(index >= num_levels - 1, sigma_max, sigma)


def karras_index(
    sigma: Tensor, num_levels: Tensor | int, sigma_min: float, sigma_max: float, rho: float = 7.0
) -> Tensor:
    """The fractional index of level `sigma`: the inverse of `karras_sigma`."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    index: Tensor = (sigma ** (1 / rho) - low) / (high - low) * (num_levels - 1)
    return index


def karras_sigmas(
    num_levels: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 7.0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """All N levels in *descending* order, σ_max first, as samplers read them.

    `ts=0,22,39` of OpenAI's code are indices into this list with N = 40.

    Raises:
        ValueError: if `num_levels` < 1 or not 0 < `sigma_min` < `sigma_max`.
    """
    if num_levels < 1 or not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"need num_levels ≥ 1 and 0 < sigma_min < sigma_max, got {num_levels}, "
            f"{sigma_min}, {sigma_max}"
        )
    if num_levels == 1:
        return torch.full((1,), sigma_max, dtype=dtype)
    index = torch.arange(num_levels - 1, -1, -1, dtype=dtype)
    return karras_sigma(index, num_levels, sigma_min, sigma_max, rho)


def karras_speed(sigma: Tensor, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """dσ/du along the Karras curve σ(u), u ∈ [0, 1], at the level `sigma`, any shape."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    speed: Tensor = rho * (high - low) * sigma ** (1 - 1 / rho)
    return speed


def ct_num_levels(progress: Tensor, s0: int = 2, s1: int = 150) -> Tensor:
    """N(k) = ⌈√(k/K ((s₁+1)² − s₀²) + s₀²) − 1⌉ + 1, Song et al. 2023, App. C."""
    return torch.ceil(torch.sqrt(progress * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1) + 1


def ct_ema_decay(num_levels: Tensor, s0: int = 2, mu0: float = 0.9) -> Tensor:
    """μ(k) = exp(s₀ ln μ₀ / N(k)), the decay of the target network, Song et al. 2023, App. C."""
    return torch.exp(s0 * math.log(mu0) / num_levels)


def ict_num_levels(progress: Tensor, s0: int = 10, s1: int = 1280) -> Tensor:
    """N(k) = min(s₀ 2^⌊k/K'⌋, s₁) + 1, K' = K/(log₂⌊s₁/s₀⌋ + 1), Song & Dhariwal 2023, eq. 9."""
    doublings = torch.floor(progress * (math.log2(s1 // s0) + 1))
    return torch.clamp(s0 * 2**doublings, max=float(s1)) + 1


def ect_lower_level(sigma: Tensor, stage: Tensor, q: float = 2.0) -> Tensor:
    """r = t (1 − q^{−(stage+1)} (1 + 8 · sigmoid(−t))), at least 0: Geng et al. 2024, §3.

    Args:
        sigma: t, any shape.
        stage: 0, 1, 2 …, broadcasts against `sigma`.
    """
    return (sigma * (1 - q ** -(stage + 1) * (1 + 8 * torch.sigmoid(-sigma)))).clamp(min=0.0)


def lognormal_sigma(
    uniform: Tensor, sigma_min: float, sigma_max: float, p_mean: float, p_std: float
) -> Tensor:
    """Levels with ln σ ~ N(P, S²) between two ends, by inverting the normal's distribution.

    Args:
        uniform: numbers in [0, 1), any shape.
    """

    def cdf(sigma: float) -> float:
        return 0.5 * (1 + math.erf((math.log(sigma) - p_mean) / (p_std * math.sqrt(2))))

    probability = cdf(sigma_min) + uniform * (cdf(sigma_max) - cdf(sigma_min))
    sigma = torch.exp(p_mean + p_std * torch.special.ndtri(probability))
    return sigma.clamp(sigma_min, sigma_max)


def lognormal_index(
    uniform: Tensor,
    num_levels: Tensor,
    sigma_min: float,
    sigma_max: float,
    p_mean: float = -1.1,
    p_std: float = 2.0,
    rho: float = 7.0,
) -> Tensor:
    """Indices n ∈ {0 … N−2} with p(n) ∝ Φ((ln σ_{n+1} − P)/S) − Φ((ln σ_n − P)/S).

    Song & Dhariwal 2023, eq. 10. A level is drawn between the two ends of the grid and its interval
    looked up, which is the same law without building the grid.

    Args:
        uniform: numbers in [0, 1), any shape.

    Returns:
        Integral values in the dtype of `uniform`.
    """

    sigma = lognormal_sigma(uniform, sigma_min, sigma_max, p_mean, p_std)
    index = torch.floor(karras_index(sigma, num_levels, sigma_min, sigma_max, rho))
    return torch.minimum(index.clamp(min=0), num_levels - 2)
