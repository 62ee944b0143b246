"""Grids and curricula against plain loops over the papers' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cmpolicy.consistency.schedules import (
    ct_ema_decay,
    ct_num_levels,
    ict_num_levels,
    karras_index,
    karras_sigma,
    karras_sigmas,
    lognormal_index,
)


def karras_loop(n: int, low: float, high: float, rho: float = 7.0) -> list[float]:
    """Karras et al. 2022, eq. 5, literally: σ_0 = σ_max first."""
    grid = []
    for i in range(n):
        a = high ** (1 / rho)
        b = low ** (1 / rho)
        grid.append((a + i / (n - 1) * (b - a)) ** rho)
    return grid


# The Karras grid ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "low", "high", "rho"),
    [(2, 0.002, 80.0, 7.0), (40, 0.002, 80.0, 7.0), (1281, 0.02, 5.0, 3.0)],
)
def test_karras_sigmas_against_a_loop(n: int, low: float, high: float, rho: float) -> None:
    grid = karras_sigmas(n, low, high, rho)
    assert grid.shape == (n,)
    np.testing.assert_allclose(grid.numpy(), karras_loop(n, low, high, rho), rtol=1e-12)
    assert (grid.diff() < 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "low", "high"), [(2, 0.002, 80.0), (11, 0.01, 80.0), (151, 0.001, 50.0)]
)
def test_the_ends_of_the_grid_are_exact(
    n: int, low: float, high: float, dtype: torch.dtype
) -> None:
    grid = karras_sigmas(n, low, high, dtype=dtype)
    assert grid[0] == torch.tensor(high, dtype=dtype)
    assert grid[-1] == torch.tensor(low, dtype=dtype)
    index = torch.tensor([0.0, n - 1.0], dtype=dtype)
    ends = karras_sigma(index, n, low, high)
    assert torch.equal(ends, torch.tensor([low, high], dtype=dtype))


def test_karras_sigma_takes_a_grid_per_call_and_a_tensor_of_levels() -> None:
    levels = torch.tensor(11.0)
    index = torch.tensor([0.0, 3.0, 10.0])
    expected = torch.tensor(karras_loop(11, 0.002, 80.0)[::-1])[[0, 3, 10]]
    torch.testing.assert_close(
        karras_sigma(index, levels, 0.002, 80.0), expected, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("n", [2, 11, 1281])
def test_karras_index_inverts_karras_sigma(n: int) -> None:
    index = torch.linspace(0, n - 1, 101, dtype=torch.float64)
    sigma = karras_sigma(index, n, 0.002, 80.0)
    torch.testing.assert_close(karras_index(sigma, n, 0.002, 80.0), index, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("n", "low", "high"), [(0, 0.002, 80.0), (-1, 0.002, 80.0), (5, 0.0, 80.0), (5, 2.0, 1.0)]
)
def test_impossible_grids_are_refused(n: int, low: float, high: float) -> None:
    with pytest.raises(ValueError, match="num_levels"):
        karras_sigmas(n, low, high)


def test_a_grid_of_one_level_is_its_top() -> None:
    assert karras_sigmas(1, 0.002, 80.0).tolist() == [80.0]


# The curriculum of CT ----------------------------------------------------------------------------


@pytest.mark.parametrize(("s0", "s1", "total"), [(2, 150, 1000), (10, 200, 777)])
def test_ct_levels_and_decay_over_a_whole_training(s0: int, s1: int, total: int) -> None:
    """N(k) and μ(k) of Song et al. 2023, App. C, at every step k of K."""
    mu0 = 0.9
    expected_n, expected_mu = [], []
    for k in range(total + 1):
        n = math.ceil(math.sqrt(k / total * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1) + 1
        expected_n.append(n)
        expected_mu.append(math.exp(s0 * math.log(mu0) / n))
    progress = torch.arange(total + 1, dtype=torch.float64) / total
    n = ct_num_levels(progress, s0, s1)
    assert n.tolist() == expected_n
    np.testing.assert_allclose(ct_ema_decay(n, s0, mu0).numpy(), expected_mu, rtol=1e-12)
    assert expected_n[0] == s0
    assert expected_n[-1] == s1 + 1
    single = ct_num_levels(progress.float(), s0, s1)  # the trainer counts in float32
    assert (single - n).abs().max() <= 1


def test_ct_known_values() -> None:
    n = ct_num_levels(torch.tensor([0.0, 1.0], dtype=torch.float32))
    assert n.tolist() == [2, 151]
    assert ct_ema_decay(n).tolist() == pytest.approx([0.9, 0.9 ** (2 / 151)])


# The curriculum of iCT ---------------------------------------------------------------------------


@pytest.mark.parametrize("total", [800, 400_000])
def test_ict_doubles_over_a_whole_training(total: int) -> None:
    """Song & Dhariwal 2023, eq. 9, at every step (every 50th of the longest)."""
    s0, s1 = 10, 1280
    period = total // (int(math.log2(s1 // s0)) + 1)
    steps = list(range(0, total + 1, max(1, total // 8000)))
    expected = [min(s0 * 2 ** (k // period), s1) + 1 for k in steps]
    for dtype in (torch.float32, torch.float64):
        progress = torch.tensor(steps, dtype=dtype) / total
        assert ict_num_levels(progress).tolist() == expected
    assert expected[0] == 11
    assert expected[-1] == 1281
    assert sorted(set(expected)) == [11, 21, 41, 81, 161, 321, 641, 1281]


@pytest.mark.parametrize(
    ("levels", "last", "reached"),
    [(ct_num_levels, 151, (150**2 - 4) / (151**2 - 4)), (ict_num_levels, 1281, 7 / 8)],
)
def test_the_curriculum_runs_over_the_whole_training(
    levels: object, last: int, reached: float
) -> None:
    """Trap: public code restarts k/K at every evaluation. N never falls, and ends at the end."""
    assert callable(levels)
    n = levels(torch.arange(5001, dtype=torch.float64) / 5000)
    assert (n.diff() >= 0).all()
    first = int((n == last).nonzero()[0]) / 5000
    assert first == pytest.approx(reached, abs=3e-4)


# Lognormal levels --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "p_mean", "p_std"), [(2, -1.1, 2.0), (11, -1.1, 2.0), (41, 0.3, 1.0)]
)
def test_lognormal_index_follows_the_erf_formula(n: int, p_mean: float, p_std: float) -> None:
    """p(n) ∝ erf((ln σ_{n+1} − P)/(√2 S)) − erf((ln σ_n − P)/(√2 S)), by a χ² test."""
    draws = 200_000
    generator = torch.Generator().manual_seed(n)
    uniform = torch.rand(draws, generator=generator)
    index = lognormal_index(uniform, torch.tensor(float(n)), 0.002, 80.0, p_mean, p_std)
    assert torch.equal(index, index.round())
    grid = karras_loop(n, 0.002, 80.0)[::-1]
    z = [(math.log(s) - p_mean) / (math.sqrt(2) * p_std) for s in grid]
    mass = np.diff([math.erf(v) for v in z])
    expected = draws * mass / mass.sum()
    counts = np.bincount(index.long().numpy(), minlength=n - 1)
    assert len(counts) == n - 1
    large = expected >= 5
    chi_square = float((((counts - expected) ** 2 / expected)[large]).sum())
    freedom = max(int(large.sum()) - 1, 1)
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)
    assert np.abs(counts - expected)[~large].sum() < 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 11, 1281])
def test_lognormal_index_stays_on_the_grid(n: int, dtype: torch.dtype) -> None:
    edge = 1 - torch.finfo(dtype).eps / 2
    uniform = torch.tensor([0.0, 1e-7, 0.5, edge], dtype=dtype)
    index = lognormal_index(uniform, torch.tensor(float(n), dtype=dtype), 0.002, 80.0)
    assert index.dtype == dtype
    assert index.min() >= 0
    assert index.max() <= n - 2
    assert index[0] == 0
    assert index[-1] == n - 2
