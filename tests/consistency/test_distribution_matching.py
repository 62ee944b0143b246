"""DMD2 on Gaussians, whose scores are known: gradients against NumPy, the fixed point, levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cmpolicy.consistency.distribution_matching import DistributionMatching
from cmpolicy.consistency.parameterization import KarrasParameterization, LevelFunction

P = KarrasParameterization(0.5, 0.01, 40.0)
MEAN, SPREAD = 0.3, 0.5  # of the data


def denoiser(mean: Tensor | float, spread: Tensor | float) -> LevelFunction:
    """E[x₀ | x_σ] of N(mean, spread²)."""

    def of(x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None] ** 2
        return (spread**2 * x + s * mean) / (spread**2 + s)

    return of


def generator(a: Tensor, b: Tensor) -> LevelFunction:
    """x = a z + b at σ_max."""
    return lambda x, sigma: a * x / sigma[:, None] + b


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def loss_at(a: float, b: float, batch: int = 64, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss of x = a z + b with exact scores of both, and its gradient by a and b."""
    z = torch.randn(batch, 3, generator=torch.Generator().manual_seed(0)).double()
    at, bt = number(a), number(b)
    one = torch.ones((), dtype=torch.float64)
    value = DistributionMatching()(
        *(generator(at, bt), denoiser(b, a), z, P, one, torch.Generator().manual_seed(seed)),
        teacher=denoiser(MEAN, SPREAD),
    )
    return value, *torch.autograd.grad(value.mean(), (at, bt))


def test_the_gradient_is_that_of_the_paper() -> None:
    """σ² (s_fake − s_real)(x_t) / mean|x − D_real|, the scores from the densities."""
    a, b = 0.8, -0.2
    value, by_a, by_b = loss_at(a, b)
    z = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).double().numpy()
    drawn = torch.Generator().manual_seed(1)
    noise = torch.randn(64, 3, generator=drawn, dtype=torch.float64).numpy()
    u = torch.rand(64, generator=drawn, dtype=torch.float64).numpy()
    low, high = 0.01 ** (1 / 7), 40.0 ** (1 / 7)
    sigma = (low + (0.02 + 0.96 * u) * (high - low))[:, None] ** 7
    x = a * z + b
    x_t = x + sigma * noise
    score_fake = -(x_t - b) / (a**2 + sigma**2)
    score_real = -(x_t - MEAN) / (SPREAD**2 + sigma**2)
    denoised = x_t + sigma**2 * score_real  # Tweedie
    spread = np.abs(x - denoised).mean(1, keepdims=True)
    g = sigma**2 * (score_fake - score_real) / spread
    np.testing.assert_allclose(value.detach().numpy(), (g**2).mean(1) / 2, rtol=1e-6)
    assert by_a.item() == pytest.approx((g * z).mean(), rel=1e-6)
    assert by_b.item() == pytest.approx(g.mean(), rel=1e-6)


def test_the_datas_distribution_is_the_fixed_point_and_attracts() -> None:
    value, by_a, by_b = loss_at(SPREAD, MEAN)
    assert value.abs().max() < 1e-20
    assert max(by_a.abs(), by_b.abs()) < 1e-10
    assert loss_at(0.3, MEAN, 4_000)[1] < 0 < loss_at(0.9, MEAN, 4_000)[1]
    assert loss_at(SPREAD, 0.0, 4_000)[2] < 0 < loss_at(SPREAD, 0.6, 4_000)[2]


def test_the_fake_score_is_trained_as_a_denoiser_and_nothing_flows_into_the_student() -> None:
    """Its minimum is E[x | x_t] of the samples."""
    z = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)).double()
    a, b, width = number(0.8), number(-0.2), number(0.8)
    matching = DistributionMatching()

    def gradient(spread: float) -> float:
        width = number(spread)
        f, seed = generator(a, b), torch.Generator().manual_seed(1)
        loss = matching.fake_loss(f, denoiser(-0.2, width), z, P, seed).mean()
        return float(torch.autograd.grad(loss, width)[0])

    assert gradient(0.7) < 0 < gradient(0.9)
    assert abs(gradient(0.8)) < 0.25 * min(abs(gradient(0.7)), gradient(0.9))
    matching.fake_loss(generator(a, b), denoiser(b, width), z[:8], P).sum().backward()
    assert width.grad is not None
    assert a.grad is None


def test_levels_are_even_on_the_karras_grid_without_its_ends() -> None:
    p, one = KarrasParameterization(0.5, 0.002, 80.0), torch.ones(())
    _, sigma = DistributionMatching().levels(torch.tensor([0.0, 0.5, 1.0]).double(), p, one)
    ends = [(0.002 ** (1 / 7) + part * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
            for part in (0.02, 0.5, 0.98)]  # fmt: skip
    np.testing.assert_allclose(sigma.numpy(), ends, rtol=1e-6)


def test_it_needs_a_teacher() -> None:
    z, one = torch.randn(4, 3).double(), torch.ones(())
    f = generator(number(1.0), number(0.0))
    with pytest.raises(AssertionError, match="distils a teacher"):
        DistributionMatching()(f, denoiser(0.0, 1.0), z, P, one)
