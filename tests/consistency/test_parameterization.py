"""f(x, ε) = x, and the coefficients against the formulas of the papers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cmpolicy.consistency.parameterization import (
    PARAMETERIZATIONS,
    DingJinParameterization,
    KarrasParameterization,
    Parameterization,
    TrigFlowParameterization,
    expand_as,
)

SIGMAS = [0.002, 0.01, 0.5, 1.7, 80.0]


def random_network(dim: int, dtype: torch.dtype, seed: int) -> Callable[..., Tensor]:
    """A random nonlinear F of everything it is given, with outputs of order ten."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(dim, dim, generator=generator, dtype=dtype)
    v = torch.randn(dim, generator=generator, dtype=dtype)

    def network(x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        out = 10 * torch.sin(x @ w + c_noise[:, None] * v)
        return out if condition is None else out + condition

    return network


class Spy:
    """A network that returns a constant and keeps what it was called with."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def __call__(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        self.x, self.c_noise, self.condition = x, c_noise, condition
        return torch.full_like(x, self.value)


# The boundary ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize(
    ("dtype", "sigma_data"), [(torch.float32, 0.5), (torch.float64, 0.05), (torch.float64, 37.0)]
)
def test_f_is_the_identity_at_the_boundary(
    name: str, dtype: torch.dtype, sigma_data: float
) -> None:
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        sigma_min = 10 ** (-4 + 3 * torch.rand((), generator=generator).item())
        p: Parameterization = PARAMETERIZATIONS[name](sigma_data, sigma_min, 80.0)
        x = 20 * torch.randn(16, 3, generator=generator, dtype=dtype)
        condition = torch.randn(16, 3, generator=generator, dtype=dtype)
        network = random_network(3, dtype, seed)
        for sigma in (torch.tensor(p.boundary, dtype=dtype), x.new_full((16,), p.boundary)):
            y = p(network, x, sigma, condition)
            assert y.dtype == dtype
            torch.testing.assert_close(y, x, rtol=4 * torch.finfo(dtype).eps, atol=1e-12)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_f_is_continuous_at_the_boundary(name: str) -> None:
    p = PARAMETERIZATIONS[name]()
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = random_network(3, x.dtype, 0)
    gaps = []
    for step in (1e-3, 1e-4, 1e-5):
        sigma = torch.tensor(p.boundary + step, dtype=x.dtype)
        gaps.append((p(network, x, sigma) - x).abs().max().item())
    assert 1e-4 < gaps[0] < 0.1
    assert (p(network, x, torch.tensor(1.0)) - x).abs().max() > 0.1
    assert gaps[1] < gaps[0] / 5
    assert gaps[2] < gaps[1] / 5


# Coefficients ------------------------------------------------------------------------------------


def test_karras_f_against_a_loop() -> None:
    p = KarrasParameterization(0.7, 0.003, 60.0)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 2, 3, generator=generator, dtype=torch.float64)
    sigmas = [0.003, 0.1, 1.0, 7.0, 60.0]
    spy = Spy(2.5)
    y = p(spy, x, torch.tensor(sigmas, dtype=torch.float64))
    for i, s in enumerate(sigmas):
        root = math.sqrt(s * s + 0.49)
        expected = 0.49 / ((s - 0.003) ** 2 + 0.49) * x[i] + 0.7 * (s - 0.003) / root * 2.5
        torch.testing.assert_close(y[i], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(spy.x[i], x[i] / root, rtol=1e-12, atol=1e-12)
        assert spy.c_noise[i].item() == pytest.approx(math.log(s) / 4, rel=1e-12)


def test_ding_jin_leaves_inputs_and_time_unscaled() -> None:
    p, karras = DingJinParameterization(), KarrasParameterization()
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor(SIGMAS)
    spy = Spy(1.0)
    y = p(spy, x, sigma)
    assert torch.equal(spy.x, x)
    assert torch.equal(spy.c_noise, sigma)
    torch.testing.assert_close(y, karras(Spy(1.0), x, sigma))  # c_skip and c_out are the same


@pytest.mark.parametrize("name", ["karras", "trigflow"])
def test_time_enters_the_network_scaled(name: str) -> None:
    """Trap: raw σ of 0.002 … 80 spans five decades; what the network sees is of order one."""
    spy = Spy()
    sigma = torch.logspace(math.log10(0.002), math.log10(80.0), 50)
    PARAMETERIZATIONS[name]()(spy, torch.zeros(50, 1), sigma)
    assert spy.c_noise.shape == (50,)
    assert spy.c_noise.abs().max() < 1.6  # ¼ ln 0.002 = −1.55; π/2 = 1.57
    assert (spy.c_noise.diff() > 0).all()


@pytest.mark.parametrize("name", ["karras", "trigflow"])
def test_the_network_sees_inputs_of_unit_scale(name: str) -> None:
    """For data of standard deviation σ_d, c_in makes the variance of the input 1 at any level."""
    p = PARAMETERIZATIONS[name](0.5)
    generator = torch.Generator().manual_seed(0)
    for sigma in SIGMAS:
        x0 = 0.5 * torch.randn(20_000, 1, generator=generator)
        x = x0 + sigma * torch.randn(20_000, 1, generator=generator)
        spy = Spy()
        p(spy, x, torch.tensor(sigma))
        assert spy.x.std().item() == pytest.approx(1.0, rel=0.03)


# TrigFlow ----------------------------------------------------------------------------------------


def test_trigflow_at_time_against_the_formula() -> None:
    p = TrigFlowParameterization(0.8)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = [0.0, 0.3, 1.1, math.pi / 2]
    spy = Spy(-1.5)
    y = p.at_time(spy, x, torch.tensor(times, dtype=torch.float64))
    for i, t in enumerate(times):
        expected = math.cos(t) * x[i] - math.sin(t) * 0.8 * -1.5
        torch.testing.assert_close(y[i], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(spy.x[i], x[i] / 0.8, rtol=1e-12, atol=1e-12)
        assert spy.c_noise[i].item() == pytest.approx(t)


@pytest.mark.parametrize("scalar", [True, False])
def test_trigflow_in_sigma_equals_trigflow_in_time(scalar: bool) -> None:
    """x_t = cos t x₀ + sin t σ_d z is cos t (x₀ + σ z) for σ = σ_d tan t."""
    sigma_data = 0.6
    p = TrigFlowParameterization(sigma_data)
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    z = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    t = torch.tensor(0.9, dtype=torch.float64)
    if not scalar:
        t = torch.linspace(0.0, 1.5, 7, dtype=torch.float64)
    column = t if scalar else t[:, None]
    sigma = sigma_data * torch.tan(t)
    network = random_network(3, torch.float64, 5)
    in_time = p.at_time(network, torch.cos(column) * x0 + torch.sin(column) * sigma_data * z, t)
    in_sigma = p(network, x0 + sigma_data * torch.tan(column) * z, sigma)
    torch.testing.assert_close(in_sigma, in_time, rtol=1e-10, atol=1e-10)


# Shapes and values -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 5)])
def test_scalar_and_per_sample_levels_agree(name: str, shape: tuple[int, ...]) -> None:
    p = PARAMETERIZATIONS[name]()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    spy = Spy(1.0)
    one = p(spy, x, torch.tensor(2.0))
    assert spy.c_noise.shape == (4,)
    torch.testing.assert_close(one, p(spy, x, torch.full((4,), 2.0)))


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_the_condition_reaches_the_network(name: str) -> None:
    spy, condition = Spy(), torch.randn(4, 9)
    PARAMETERIZATIONS[name]()(spy, torch.zeros(4, 2), torch.tensor(1.0), condition)
    assert spy.condition is condition


@pytest.mark.parametrize("shape", [(4, 1), (3,), (1,), (5,), (1, 4), (4, 2)])
def test_expand_as_refuses_levels_that_would_broadcast_wrongly(shape: tuple[int, ...]) -> None:
    """Trap: (B, 1) against (B,) broadcasts silently to (B, B)."""
    with pytest.raises(ValueError, match=r"levels must have shape \(\) or \(4,\)"):
        expand_as(torch.ones(shape), torch.ones(4, 2))


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 3, 8, 8)])
def test_expand_as_gives_each_sample_its_own_level(shape: tuple[int, ...]) -> None:
    x, level = torch.ones(shape), torch.arange(4.0)
    product = expand_as(level, x) * x
    assert product.shape == x.shape
    for i in range(4):
        assert (product[i] == i).all()


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("values", [(0.5, 0.0, 80.0), (0.5, 80.0, 0.002), (0.0, 0.002, 80.0)])
def test_impossible_levels_are_refused(name: str, values: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="sigma_min"):
        PARAMETERIZATIONS[name](*values)
