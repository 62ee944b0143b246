"""One-step and multistep sampling against a loop and against a law that is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cmpolicy.consistency.parameterization import (
    KarrasParameterization,
    Parameterization,
    TrigFlowParameterization,
)
from cmpolicy.consistency.sampling import (
    few_step_levels,
    find_mode,
    grid_levels,
    multistep,
)

KARRAS = KarrasParameterization()


def wavy(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.sin(x) / (1 + sigma)[:, None] + 0.1 * sigma[:, None]


def gaussian_solution(std: float, eps: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The solution of the probability-flow ODE from σ to ε, for data N(0, std²)."""

    def f(x: Tensor, sigma: Tensor) -> Tensor:
        return x * ((std**2 + eps**2) / (std**2 + sigma**2)).sqrt()[:, None]

    return f


def grid_loop(n: int, low: float, high: float) -> list[float]:
    a, b = high ** (1 / 7), low ** (1 / 7)
    return [(a + i / (n - 1) * (b - a)) ** 7 for i in range(n)]


# The algorithm -----------------------------------------------------------------------------------


def test_one_level_is_one_call_of_f_at_sigma_max() -> None:
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(multistep(wavy, z, [80.0]), wavy(80.0 * z, torch.full((5,), 80.0)))


@pytest.mark.parametrize("boundary", [0.0, 0.002, 0.3])
@pytest.mark.parametrize("levels", [[80.0, 2.0], [80.0, 24.0, 5.8, 0.9, 0.31]])
def test_multistep_against_a_loop(levels: list[float], boundary: float) -> None:
    """Song et al. 2023, Algorithm 1, one sample at a time."""
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = multistep(wavy, z, levels, boundary, torch.Generator().manual_seed(7))

    generator = torch.Generator().manual_seed(7)
    noises = [torch.randn(5, 2, generator=generator, dtype=z.dtype) for _ in levels[1:]]
    for row in range(5):
        x = [math.sin(levels[0] * v) / (1 + levels[0]) + 0.1 * levels[0] for v in z[row].tolist()]
        for sigma, noise in zip(levels[1:], noises, strict=True):
            scale = math.sqrt(sigma * sigma - boundary * boundary)
            hat = [v + scale * e for v, e in zip(x, noise[row].tolist(), strict=True)]
            x = [math.sin(v) / (1 + sigma) + 0.1 * sigma for v in hat]
        assert y[row].tolist() == pytest.approx(x, rel=1e-9)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((5, 2), torch.float64), ((5, 3, 4, 4), torch.float32)]
)
def test_dtype_and_shape_are_those_of_the_noise(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    seen = []

    def f(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((x.dtype, sigma.dtype, tuple(sigma.shape)))
        return x / 100

    y = multistep(f, torch.randn(shape, dtype=dtype), [80.0, 2.0, 0.5], 0.002)
    assert y.dtype == dtype
    assert y.shape == shape
    assert seen == [(dtype, dtype, (5,))] * 3


def test_sampling_is_differentiable_through_every_step() -> None:
    a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    z = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)

    def sample(weight: Tensor, noise: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return multistep(
            lambda x, s: torch.sin(weight * x / (1 + s[:, None])), noise, [3.0, 0.7], 0.1, generator
        )

    assert torch.autograd.gradcheck(sample, (a, z))


def test_a_generator_decides_everything() -> None:
    z, levels = torch.randn(4, 2), [80.0, 2.0]
    before = torch.get_rng_state()
    one, two, other = (
        multistep(wavy, z, levels, 0.0, torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("levels", "boundary"),
    [
        ([], 0.0),
        ([1.0, 2.0], 0.0),
        ([2.0, 2.0], 0.0),
        ([2.0, 0.0], 0.0),
        ([2.0, 0.002], 0.002),
        ([2.0, 0.001], 0.002),
        ([-1.0], 0.0),
        ([5.0, 1.0, 3.0], 0.0),
    ],
)
def test_bad_levels_are_refused(levels: list[float], boundary: float) -> None:
    with pytest.raises(ValueError, match="levels must be strictly decreasing and above"):
        multistep(wavy, torch.zeros(2, 2), levels, boundary)


# A known law -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("std", "steps"), [(0.5, 1), (3.0, 2), (0.1, 10)])
def test_the_exact_solution_gives_the_data_law_at_any_number_of_steps(
    std: float, steps: int
) -> None:
    p = KarrasParameterization(std)
    levels = few_step_levels(steps, p)
    generator = torch.Generator().manual_seed(steps)
    z = torch.randn(40_000, 1, generator=generator)
    y = multistep(gaussian_solution(std, p.boundary), z, levels, p.boundary, generator)
    assert y.std().item() / std == pytest.approx(1.0, abs=0.02)
    assert abs(y.mean().item()) < 0.02 * std
    kurtosis = ((y / y.std()) ** 4).mean().item()
    assert kurtosis == pytest.approx(3.0, abs=0.15)


def test_noise_is_added_up_to_the_level_and_not_beyond() -> None:
    """After x ~ N(0, s²+ε²), the second input must have variance s² + σ²: hence √(σ² − ε²)."""
    std, eps, sigma = 0.2, 0.5, 0.6  # a large ε makes the difference visible
    inputs: list[Tensor] = []
    exact = gaussian_solution(std, eps)

    def f(x: Tensor, s: Tensor) -> Tensor:
        inputs.append(x)
        return exact(x, s)

    z = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0))
    multistep(f, z, [80.0, sigma], eps, torch.Generator().manual_seed(1))
    assert inputs[1].std().item() == pytest.approx(math.hypot(std, sigma), rel=0.01)


# Levels ------------------------------------------------------------------------------------------


def test_openai_indices_map_to_the_right_levels() -> None:
    """`ts=0,22,39` of 40 levels: σ_max, the level between, and ε, where there is no step to make.

    The numbers are those of t = (σ_max^{1/7} + 22/39 (σ_min^{1/7} − σ_max^{1/7}))^7.
    """
    levels = grid_levels([0, 22], 40, KARRAS)
    assert levels == pytest.approx([80.0, 1.3823679566], rel=1e-9)
    indices = [0, 5, 17, 38]
    expected = [grid_loop(40, 0.002, 80.0)[i] for i in indices]
    assert grid_levels(indices, 40, KARRAS) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("p", [KARRAS, KarrasParameterization(0.5, 0.01, 50.0)])
def test_the_last_index_is_left_out(p: Parameterization) -> None:
    assert len(grid_levels([0, 22, 39], 40, p)) == 2
    assert grid_levels([39], 40, p) == []


@pytest.mark.parametrize("steps", [1, 2, 4, 17])
@pytest.mark.parametrize("p", [KARRAS, TrigFlowParameterization(0.5, 0.01, 40.0)])
def test_few_step_levels(steps: int, p: Parameterization) -> None:
    levels = few_step_levels(steps, p)
    grid = grid_loop(steps + 1, p.sigma_min, p.sigma_max)
    assert levels == pytest.approx(grid[:-1], rel=1e-9)
    assert len(levels) == steps
    assert all(isinstance(s, float) for s in levels)
    multistep(wavy, torch.zeros(1, 1), levels, p.boundary)


def test_the_mode_is_where_samples_are_densest() -> None:
    """Of two clusters the larger one's centre, not a sample and not the mean of all."""
    generator = torch.Generator().manual_seed(0)
    spread = 0.1 * torch.randn(3, 30, 2, generator=generator)
    clusters = torch.cat((spread[:, :20] + 3, spread[:, 20:] - 3), dim=1)
    expected = clusters[:, :20].mean(1)
    torch.testing.assert_close(find_mode(clusters), expected, rtol=0, atol=1e-3)
    shuffled = clusters[:, torch.randperm(30, generator=generator)]
    torch.testing.assert_close(find_mode(shuffled), expected, rtol=0, atol=1e-3)


def test_the_mode_of_few_samples() -> None:
    one = torch.randn(4, 1, 3)
    torch.testing.assert_close(find_mode(one), one[:, 0])
    torch.testing.assert_close(find_mode(one.expand(-1, 7, -1)), one[:, 0])


def test_the_mode_does_not_depend_on_how_many_entries_repeat_it() -> None:
    """The width is in the root mean square: copies of the entries change nothing."""
    samples = torch.randn(2, 9, 1)
    torch.testing.assert_close(find_mode(samples.expand(-1, -1, 5))[:, :1], find_mode(samples))


def test_mean_shift_by_hand() -> None:
    """From the densest sample, which is 1, to the mean of all as that sample sees them."""
    samples = torch.tensor([[[0.0], [1.0], [5.0]]])
    torch.testing.assert_close(find_mode(samples, iterations=0), torch.tensor([[1.0]]))
    weights = torch.exp(-torch.tensor([1.0, 0.0, 16.0]) / 2)
    expected = (weights * samples[0, :, 0]).sum() / weights.sum()
    torch.testing.assert_close(find_mode(samples, iterations=1), expected.view(1, 1))


@pytest.mark.parametrize("entries", [1, 2, 4, 7, 24])
@pytest.mark.parametrize("share", [17, 24, 31])
def test_a_mode_does_not_lie_between_two_values_of_one_entry(entries: int, share: int) -> None:
    samples = torch.zeros(1, 32, entries)
    samples[0, :share, -1], samples[0, share:, -1] = 2.5, -2.5
    expected = torch.zeros(1, entries)
    expected[0, -1] = 2.5
    torch.testing.assert_close(find_mode(samples), expected, rtol=0, atol=0.1)
