"""Continuous-time losses against finite differences, the papers' formulas, and a known law."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from cmpolicy.consistency.continuous import (
    ContinuousConsistency,
    SimplifiedConsistency,
    prepare_forward_mode,
    tangent,
    trigflow_tangent,
)
from cmpolicy.consistency.losses import DIFFUSIONS, DISTILLATIONS, LOSSES
from cmpolicy.consistency.parameterization import (
    KarrasParameterization,
    LevelFunction,
    Parameterization,
    TrigFlowParameterization,
)

KARRAS, TRIGFLOW = (
    KarrasParameterization(0.5, 0.01, 40.0),
    TrigFlowParameterization(0.5, 0.01, 40.0),
)
BOTH = pytest.mark.parametrize("p", [KARRAS, TRIGFLOW], ids=["karras", "trigflow"])


prepare_forward_mode()


class Raw(nn.Module):
    """A smooth network of two coordinates, float64."""

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(dim + 1, 16), nn.Tanh(), nn.Linear(16, dim)).double()

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        out: Tensor = self.layers(torch.cat((x, c_noise[:, None]), dim=1))
        return out


def bound(p: Parameterization, network: nn.Module) -> LevelFunction:
    return lambda x, sigma: p(network, x, sigma)


def points(n: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """x_σ, σ over the whole range, and a velocity."""
    g = torch.Generator().manual_seed(1)
    sigma = torch.logspace(math.log10(0.02), math.log10(35), n, dtype=torch.float64)
    x0 = 0.5 * torch.randn(n, 2, generator=g, dtype=torch.float64)
    z = torch.randn(n, 2, generator=g, dtype=torch.float64)
    return x0 + sigma[:, None] * z, sigma, z


def difference(f: LevelFunction, x: Tensor, sigma: Tensor, v: Tensor) -> Tensor:
    """df/dσ along dx/dσ = v, by central differences."""
    h = 1e-6 * sigma
    ahead = f(x + h[:, None] * v, sigma + h)
    return ((ahead - f(x - h[:, None] * v, sigma - h)) / (2 * h[:, None])).detach()


# Tangents ----------------------------------------------------------------------------------------


@BOTH
def test_the_tangent_is_a_finite_difference(p: Parameterization) -> None:
    f = bound(p, Raw())
    x, sigma, v = points()
    value, derivative = tangent(f, x, sigma, v, 3 * torch.ones_like(sigma))
    torch.testing.assert_close(value, f(x, sigma).detach())
    torch.testing.assert_close(derivative, 3 * difference(f, x, sigma, v), rtol=1e-6, atol=1e-8)
    assert not derivative.requires_grad


@BOTH
def test_g_is_cos_t_times_df_dt(p: Parameterization) -> None:
    """In TrigFlow's time: t = arctan(σ/σ_d), by central differences in t."""
    f = bound(p, Raw())
    x, sigma, v = points()
    value, g = trigflow_tangent(f, x, sigma, v, 0.5, torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(value, f(x, sigma).detach())
    t = torch.atan(sigma / 0.5)
    h = 1e-6 * t * torch.cos(t)

    def at(time: Tensor) -> Tensor:
        s = 0.5 * torch.tan(time)
        return f(x + (s - sigma)[:, None] * v, s)

    df_dt = ((at(t + h) - at(t - h)) / (2 * h[:, None])).detach()
    torch.testing.assert_close(g, torch.cos(t)[:, None] * df_dt, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("r", [0.0, 0.4, 1.0])
def test_g_is_the_formula_of_the_paper(r: float) -> None:
    """−cos²t (σ_d F − dx_t/dt) − r (cos t sin t · x_t + σ_d J), J from differences of F itself."""
    network, sigma_data = Raw(), 0.5
    x, sigma, v = points()
    _, g = trigflow_tangent(bound(TRIGFLOW, network), x, sigma, v, sigma_data, torch.tensor(r))

    t = torch.atan(sigma / sigma_data)
    cos, sin = torch.cos(t)[:, None], torch.sin(t)[:, None]
    x_t = cos * x
    x0 = x - sigma[:, None] * v  # the sample that this noise belongs to
    dx_dt = cos * sigma_data * v - sin * x0
    raw = network(x_t / sigma_data, t)
    speed = cos[:, 0] * sin[:, 0]
    h = 1e-6

    def moved(step: float) -> Tensor:
        x_moved = x_t + step * speed[:, None] * dx_dt
        out: Tensor = network(x_moved / sigma_data, t + step * speed)
        return out

    jvp = (moved(h) - moved(-h)) / (2 * h)
    expected = -(cos**2) * (sigma_data * raw - dx_dt)
    expected = expected - r * (cos * sin * x_t + sigma_data * jvp)
    torch.testing.assert_close(g, expected.detach(), rtol=1e-5, atol=1e-7)


# A Gaussian, whose solution is known -------------------------------------------------------------


def solution(s: float, eps: float, theta: Tensor | float = 1.0) -> LevelFunction:
    """x ((s²+ε²)/(s²+σ²))^{θ/2}: θ = 1 solves the probability-flow ODE of N(0, s²)."""
    return lambda x, sigma: x * (((s**2 + eps**2) / (s**2 + sigma**2)) ** (theta / 2))[:, None]


def exact_teacher(s: float) -> LevelFunction:
    """E[x₀ | x_σ] = x s²/(s² + σ²)."""
    return lambda x, sigma: x * (s**2 / (s**2 + sigma**2))[:, None]


def test_the_solution_has_no_tangent_along_the_exact_teacher() -> None:
    x, sigma, _ = points()
    teacher = exact_teacher(0.7)
    v = (x - teacher(x, sigma)) / sigma[:, None]
    _, derivative = tangent(solution(0.7, 0.01), x, sigma, v, torch.ones_like(sigma))
    assert derivative.abs().max() < 1e-12


@pytest.mark.parametrize("name", [*LOSSES, *(n for n in DISTILLATIONS if n != "dmd2")])
def test_the_gradient_vanishes_at_the_solution(name: str) -> None:
    """Within f_θ the minimum lies at θ = 1, for CT and iCT up to the width of the grid."""
    s, p = 0.5, KarrasParameterization(0.5, 0.05, 5.0)
    x0 = s * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)).double()
    options = {"ct": {"s1": 150}, "cd": {"num_levels": 150}, "ect": {"p_mean": -1.0}}.get(name, {})
    loss = {**LOSSES, **DISTILLATIONS}[name](**options)
    teacher = exact_teacher(s) if name in DISTILLATIONS else None

    def gradient(theta: float) -> float:
        t = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        f = solution(s, 0.05, t)
        one = torch.ones((), dtype=torch.float64)
        generator = torch.Generator().manual_seed(1)
        value = loss(f, f, x0, p, one, generator, teacher=teacher).mean()
        return float(torch.autograd.grad(value, t)[0])

    low, high = 0.3, 2.0
    assert gradient(low) < 0 < gradient(high)
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (middle, high) if gradient(middle) < 0 else (low, middle)
    assert (low + high) / 2 == pytest.approx(1.0, abs=0.05)


def test_ct_and_cd_are_one_in_expectation_with_the_exact_teacher() -> None:
    """f⁻ linear in x: E[f⁻(x₀ + σ_n z) | x_{n+1}] is f⁻ at the Euler step of the exact teacher."""
    s, p = 0.5, KarrasParameterization(0.5, 0.05, 5.0)
    x0 = s * torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0)).double()
    one = torch.ones((), dtype=torch.float64)
    ct = LOSSES["ct"](s1=17, fixed_decay=0.0)
    cd = DISTILLATIONS["cd"](num_levels=18, solver="euler", mu=0.0)
    theta = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    gradients = []
    for loss, teacher in ((ct, None), (cd, exact_teacher(s))):
        f = solution(s, 0.05, theta)
        value = loss(f, f, x0, p, one, torch.Generator().manual_seed(1), teacher=teacher)
        gradients.append(float(torch.autograd.grad(value.mean(), theta)[0]))
    assert gradients[0] == pytest.approx(gradients[1], rel=0.01)
    assert abs(gradients[1]) > 1e-4


# The losses --------------------------------------------------------------------------------------


def test_the_gradient_of_sct_is_minus_g_dot_df() -> None:
    """∂/∂θ ‖F_θ − F_θ⁻ − ĝ‖²/D = −2 ĝ · ∂F_θ/∂θ / D, with ĝ = g/(‖g‖ + c)."""
    network = Raw()
    x0 = 0.5 * torch.randn(32, 2, generator=torch.Generator().manual_seed(3)).double()
    loss = SimplifiedConsistency(warmup=0.5, c=0.3)
    f = bound(TRIGFLOW, network)
    progress = torch.tensor(0.25, dtype=torch.float64)
    drawn: list[Tensor] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        drawn[:] = [x, sigma]
        return f(x, sigma)

    value = loss(watched, f, x0, TRIGFLOW, progress, torch.Generator().manual_seed(4))
    x, sigma = drawn
    v = (x - x0) / sigma[:, None]
    _, g = trigflow_tangent(f, x, sigma, v, 0.5, torch.tensor(0.5))
    g = g / (g.norm(dim=1, keepdim=True) + 0.3)
    torch.testing.assert_close(value, g.square().sum(1) / 2)
    parameters = list(network.parameters())
    t = torch.atan(sigma / 0.5)
    raw = network(torch.cos(t)[:, None] * x / 0.5, t)
    expected = torch.autograd.grad((-2 * g * raw).sum() / 2, parameters)
    for mine, theirs in zip(torch.autograd.grad(value.sum(), parameters), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("weight", ["uniform", "edm"])
def test_the_continuous_loss_is_the_limit_of_the_discrete_one(weight: str) -> None:
    """(N − 1)² d² between neighbours of a grid of N levels tends to ‖df/du‖²."""
    f = bound(KARRAS, Raw())
    x0 = 0.5 * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(3)).double()
    one = torch.ones((), dtype=torch.float64)
    continuous = ContinuousConsistency(weight=weight)
    expected = continuous(f, f, x0, KARRAS, one, torch.Generator().manual_seed(5)).mean()
    n = 4000
    ct = LOSSES["ct"](s1=n, weight=weight)
    discrete = ct(f, f, x0, KARRAS, one, torch.Generator().manual_seed(5)).mean()
    assert n**2 * discrete.item() == pytest.approx(expected.item(), rel=0.01)


@pytest.mark.parametrize("name", ["ct_continuous", "sct"])
def test_nothing_flows_into_the_target(name: str) -> None:
    online, target = Raw(), Raw()
    x0 = torch.randn(16, 2).double()
    half = torch.tensor(0.5, dtype=torch.float64)
    LOSSES[name]()(
        bound(TRIGFLOW, online), bound(TRIGFLOW, target), x0, TRIGFLOW, half
    ).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in online.parameters())
    assert all(p.grad is None for p in target.parameters())


def test_the_warmup_rises_over_its_part_of_the_training() -> None:
    """At k = 0 only the stable part of g counts; after the warm-up all of it does."""
    f = bound(TRIGFLOW, Raw())
    x0 = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)).double()

    def value(progress: float, warmup: float) -> Tensor:
        k = torch.tensor(progress, dtype=torch.float64)
        loss = SimplifiedConsistency(warmup=warmup)
        out: Tensor = loss(f, f, x0, TRIGFLOW, k, torch.Generator().manual_seed(1))
        return out.detach()

    assert torch.equal(value(0.2, 0.2), value(0.9, 0.2))
    assert torch.equal(value(0.0, 0.0), value(0.9, 0.2))
    assert torch.equal(value(0.1, 0.2), value(0.3, 0.6))
    assert not torch.allclose(value(0.0, 0.2), value(0.2, 0.2))


@pytest.mark.parametrize("name", [*LOSSES, *DISTILLATIONS, *DIFFUSIONS])
@pytest.mark.parametrize("value", [-1e300, 1e300, math.nan])
def test_values_out_of_range_are_refused(name: str, value: float) -> None:
    make = {**LOSSES, **DISTILLATIONS, **DIFFUSIONS}[name]
    numbers = [f.name for f in dataclasses.fields(make) if isinstance(f.default, int | float)]  # type: ignore[arg-type]
    for key in numbers:
        with pytest.raises(ValueError, match=f"{key} must be from"):
            make(**{key: value})


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_takes_a_teacher(name: str) -> None:
    f = bound(TRIGFLOW, Raw())
    x0, half = torch.randn(8, 2).double(), torch.tensor(0.5, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    value = LOSSES[name]()(f, f, x0, TRIGFLOW, half, g, teacher=exact_teacher(0.5))
    assert value.shape == (8,)
    assert value.isfinite().all()
    g.manual_seed(0)
    assert not torch.equal(LOSSES[name]()(f, f, x0, TRIGFLOW, half, g), value)
