"""Consistency losses against NumPy, and where their gradients go."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from cmpolicy.consistency.discrete import ConsistencyTraining, ImprovedConsistencyTraining
from cmpolicy.consistency.loss_metrics import METRICS
from cmpolicy.consistency.losses import LOSSES
from cmpolicy.consistency.parameterization import KarrasParameterization

Array = npt.NDArray[np.float64]
LOW, HIGH, RHO = 0.01, 40.0, 7.0
PARAMETERIZATION = KarrasParameterization(0.5, LOW, HIGH)


def at(progress: float) -> Tensor:
    return torch.tensor(progress, dtype=torch.float64)


def data(seed: int = 0, batch: int = 64, dim: int = 3) -> Tensor:
    return torch.randn(batch, dim, generator=torch.Generator().manual_seed(seed)).double()


class Linear(nn.Module):
    """f(x, σ) = x a/(1 + σ) + b: a function with weights that a loop can follow."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x * (self.a / (1 + sigma))[:, None] + self.b


class Levels:
    """A consistency function that keeps the levels it was asked for."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.seen.append(sigma)
        return 0 * x


def redraw(x0: Tensor, seed: int) -> tuple[Array, Array]:
    """The same draws as a loss makes with this seed: noise, then one uniform number a sample."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    u = torch.rand(len(x0), generator=generator, dtype=x0.dtype)
    return z.numpy(), u.numpy()


def level(i: int, n: int) -> float:
    low, high = LOW ** (1 / RHO), HIGH ** (1 / RHO)
    return float((low + i / (n - 1) * (high - low)) ** RHO)


def lognormal_interval(u: float, n: int, mean: float, std: float) -> int:
    """The interval of the grid in which the truncated law of ln σ reaches u, by search."""

    def cdf(sigma: float) -> float:
        return 0.5 * (1 + math.erf((math.log(sigma) - mean) / (std * math.sqrt(2))))

    p = cdf(LOW) + u * (cdf(HIGH) - cdf(LOW))
    return max(i for i in range(n - 1) if i == 0 or cdf(level(i, n)) <= p)


def difference_at(x0: Array, z: Array, i: int, n: int, online: Linear, target: Linear) -> Array:
    low, high = level(i, n), level(i + 1, n)
    at_high = (x0 + high * z) * online.a.item() / (1 + high) + online.b.item()
    at_low = (x0 + low * z) * target.a.item() / (1 + low) + target.b.item()
    return at_high - at_low


# Metrics -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 1), (6, 5), (6, 3, 4, 4)])
def test_metrics_against_loops(shape: tuple[int, ...]) -> None:
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    d = int(np.prod(shape[1:]))
    for i, row in enumerate(delta.numpy().reshape(6, -1)):
        square = sum(float(v) ** 2 for v in row)
        c = 0.00054 * math.sqrt(d)
        assert METRICS["squared"](delta, 0 * delta)[i].item() == pytest.approx(square)
        assert METRICS["l1"](delta, 0 * delta)[i].item() == pytest.approx(
            sum(abs(float(v)) for v in row)
        )
        huber = math.sqrt(square + c**2) - c
        assert METRICS["pseudo_huber"](delta, 0 * delta)[i].item() == pytest.approx(huber)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_give_one_value_a_sample_and_zero_for_zero(name: str) -> None:
    value = METRICS[name](torch.zeros(6, 3, 2, requires_grad=True), torch.zeros(6, 3, 2))
    assert value.shape == (6,)
    assert (value.abs() < 1e-9).all()
    value.sum().backward()  # type: ignore[no-untyped-call]


# Values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "weight", "metric"),
    [(0.0, "uniform", "squared"), (0.37, "inverse", "l1"), (1.0, "edm", "squared")],
)
def test_ct_against_numpy(progress: float, weight: str, metric: str) -> None:
    x0, online, target = data(), Linear(1.3, 0.2), Linear(0.7, -0.1)
    s0, s1 = 2, 20
    loss = ConsistencyTraining(s0=s0, s1=s1, metric=metric, weight=weight)
    generator = torch.Generator().manual_seed(5)
    value = loss(online, target, x0, PARAMETERIZATION, at(progress), generator)

    z, u = redraw(x0, 5)
    n = math.ceil(math.sqrt(progress * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1) + 1
    for row in range(len(x0)):
        i = int(u[row] * (n - 1))
        delta = difference_at(x0[row].numpy(), z[row], i, n, online, target)
        expected = (delta**2).sum() if metric == "squared" else np.abs(delta).sum()
        if weight == "inverse":
            expected /= level(i + 1, n) - level(i, n)
        if weight == "edm":
            sigma, d = level(i + 1, n), PARAMETERIZATION.sigma_data
            expected *= 1 / sigma**2 + 1 / d**2
        assert value[row].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("progress", [0.0, 0.37, 1.0])
def test_ict_against_numpy(progress: float) -> None:
    x0, online, target = data(1), Linear(1.3, 0.2), Linear(0.7, -0.1)
    loss = ImprovedConsistencyTraining(s0=5, s1=80)
    generator = torch.Generator().manual_seed(6)
    value = loss(online, target, x0, PARAMETERIZATION, at(progress), generator)

    z, u = redraw(x0, 6)
    n = min(5 * 2 ** math.floor(progress * 5), 80) + 1
    c = 0.00054 * math.sqrt(3)
    for row in range(len(x0)):
        i = lognormal_interval(float(u[row]), n, -1.1, 2.0)
        delta = difference_at(x0[row].numpy(), z[row], i, n, online, target)
        expected = math.sqrt((delta**2).sum() + c**2) - c
        expected /= level(i + 1, n) - level(i, n)
        assert value[row].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("shape", "dtype"), [((16, 1), torch.float64), ((16, 3, 4, 4), torch.float32)]
)
def test_one_value_a_sample_in_the_dtype_of_the_data(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x0 = torch.randn(shape, dtype=dtype)
    progress = torch.tensor(0.5, dtype=dtype)
    value = LOSSES[name]()(lambda x, s: x, lambda x, s: 2 * x, x0, PARAMETERIZATION, progress)
    assert value.shape == (16,)
    assert value.dtype == dtype


@pytest.mark.parametrize("name", LOSSES)
def test_a_generator_decides_everything(name: str) -> None:
    x0, loss, f = data(), LOSSES[name](), Linear(1.0, 0.0)
    before = torch.get_rng_state()
    one, two, other = (
        loss(f, f, x0, PARAMETERIZATION, at(0.5), torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


# Both sides share the noise, on neighbouring levels ----------------------------------------------


@pytest.mark.parametrize("name", ["ct", "ict", "ect"])
def test_both_functions_see_the_same_noise(name: str) -> None:
    """z = (x_σ − x₀)/σ is the same for f at its level and f⁻ at its own."""
    x0 = data(0)
    seen: list[Tensor] = []

    def f(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((x - x0) / sigma[:, None])
        return x

    LOSSES[name](weight="uniform")(f, f, x0, PARAMETERIZATION, at(1.0))
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-6, atol=1e-9)
    assert seen[0].std().item() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("name", "levels"), [("ct", [2, 76, 107, 151]), ("ict", [11, 41, 161, 1281])]
)
def test_levels_are_neighbours_on_the_grid_of_that_moment(name: str, levels: list[int]) -> None:
    """Trap: the curriculum follows k/K over the whole training, from the first N to the last."""
    x0 = torch.zeros(4000, 1, dtype=torch.float64)
    for progress, n in zip((0.0, 0.25, 0.5, 1.0), levels, strict=True):
        online, target = Levels(), Levels()
        generator = torch.Generator().manual_seed(0)
        LOSSES[name]()(online, target, x0, PARAMETERIZATION, at(progress), generator)
        grid = np.array([level(i, n) for i in range(n)])
        high, low = online.seen[0].numpy(), target.seen[0].numpy()
        index = np.abs(grid[None] - low[:, None]).argmin(1)
        np.testing.assert_allclose(low, grid[index], rtol=1e-9)
        np.testing.assert_allclose(high, grid[index + 1], rtol=1e-9)
        assert index.min() == 0
        if name == "ct":  # uniform over all intervals
            counts = np.bincount(index, minlength=n - 1)
            assert len(counts) == n - 1
            expected = 4000 / (n - 1)
            assert np.abs(counts - expected).max() < 6 * math.sqrt(expected) + 1e-9


# Gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_flows_only_through_the_online_function(name: str) -> None:
    online, target = Linear(1.3, 0.2), Linear(0.7, -0.1)
    LOSSES[name]()(online, target, data(), PARAMETERIZATION, at(0.5)).mean().backward()
    assert online.a.grad is not None
    assert online.a.grad != 0
    assert online.b.grad is not None
    assert online.b.grad != 0
    assert target.a.grad is None
    assert target.b.grad is None


def test_the_target_is_a_constant_even_when_it_is_the_same_function() -> None:
    """d/db of ‖f(x', σ') − sg f(x, σ)‖² for f = x + b is 2 Σ Δ, not 0."""
    f = Linear(1.0, 0.3)
    x0 = data()
    loss = ConsistencyTraining(s1=20)
    value = loss(f, f, x0, PARAMETERIZATION, at(1.0), torch.Generator().manual_seed(2))
    value.sum().backward()
    z, u = redraw(x0, 2)
    expected = 0.0
    for row in range(len(x0)):
        i = int(u[row] * 20)
        expected += 2 * float(difference_at(x0[row].numpy(), z[row], i, 21, f, f).sum())
    assert f.b.grad is not None
    assert f.b.grad.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_a_constant_function_has_no_loss(name: str) -> None:
    def f(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.full_like(x, 0.7)

    value = LOSSES[name]()(f, f, data(), PARAMETERIZATION, at(0.5))
    assert torch.equal(value, torch.zeros_like(value))


# The minimum -------------------------------------------------------------------------------------


def stationary_exponent(n: int) -> float:
    """Where CT's gradient vanishes within the family f_θ = x ((s²+ε²)/(s²+σ²))^{θ/2}.

    For data N(0, s²) the solution of the probability-flow ODE is θ = 1; f_θ(x, ε) = x for all θ.
    """
    s, p = 0.5, KarrasParameterization(0.5, 0.05, 5.0)
    loss = ConsistencyTraining(s1=n)
    x0 = s * data(0, batch=40_000, dim=1)

    def gradient(theta: float) -> float:
        t = torch.tensor(theta, dtype=torch.float64, requires_grad=True)

        def f(x: Tensor, sigma: Tensor) -> Tensor:
            return x * ((s**2 + 0.05**2) / (s**2 + sigma**2))[:, None] ** (t / 2)

        value = loss(f, f, x0, p, at(1.0), torch.Generator().manual_seed(1)).mean()
        return float(torch.autograd.grad(value, t)[0])

    low, high = 0.2, 2.0
    assert gradient(low) < 0 < gradient(high)
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if gradient(middle) < 0 else (low, middle)
    return (low + high) / 2


def test_training_a_gaussian_ends_at_the_probability_flow_solution() -> None:
    """The bias of CT is O(Δσ): the stationary point tends to the exact solution as N grows."""
    gaps = [abs(stationary_exponent(n) - 1) for n in (8, 32, 128)]
    assert gaps[1] < 0.5 * gaps[0]
    assert gaps[2] < 0.5 * gaps[1]
    assert gaps[2] < 0.03


# Targets and options -----------------------------------------------------------------------------


def test_ct_moves_its_target_and_ict_has_none() -> None:
    ct, ict = ConsistencyTraining(), ImprovedConsistencyTraining()
    assert ct.needs_target_ema
    assert not ict.needs_target_ema
    assert ct.target_decay(at(0.0)).item() == pytest.approx(0.9)
    assert ct.target_decay(at(1.0)).item() == pytest.approx(math.exp(2 * math.log(0.9) / 151))
    assert ict.target_decay(at(0.5)).item() == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_frozen_hyperparameters(name: str) -> None:
    loss: Any = LOSSES[name]()
    assert loss == LOSSES[name]()
    with pytest.raises(AttributeError):
        loss.s1 = 3
