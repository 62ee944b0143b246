"""Solvers of the probability-flow ODE and the denoising loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cmpolicy.consistency.diffusion import DenoisingScoreMatching, batch_denoiser
from cmpolicy.consistency.discrete import ConsistencyDistillation
from cmpolicy.consistency.parameterization import EDMParameterization, KarrasParameterization
from cmpolicy.consistency.schedules import ect_lower_level, karras_sigmas, karras_speed
from cmpolicy.consistency.solvers import SOLVERS, solve, trajectory

S = 0.5


def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x₀ | x_σ] of N(0, S²)."""
    return x * (S**2 / (S**2 + sigma**2))[:, None]


def exact(x: Tensor, sigma: float, to: float) -> Tensor:
    """The probability-flow ODE of N(0, S²) solved: x ∝ √(S² + σ²)."""
    return x * math.sqrt((S**2 + to**2) / (S**2 + sigma**2))


def karras(steps: int, last: float = 0.01) -> list[float]:
    return karras_sigmas(steps + 1, last, 20.0).tolist()


# Steps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_the_order_of_a_solver(solver: str, order: int) -> None:
    z = torch.ones(1, 1, dtype=torch.float64)

    def error(steps: int) -> float:
        end = solve(denoiser, z, karras(steps), solver)
        return float((end - exact(20.0 * z, 20.0, 0.01)).abs())

    assert error(64) / error(128) == pytest.approx(2**order, rel=0.15)


def test_one_step_by_hand() -> None:
    x, high, low = torch.tensor([[1.2]]), torch.tensor([2.0]), torch.tensor([0.5])
    slope = (1.2 - 1.2 * 0.25 / 4.25) / 2
    euler = 1.2 - 1.5 * slope
    assert SOLVERS["euler"](denoiser, x, high, low).item() == pytest.approx(euler)
    heun = 1.2 - 1.5 * (slope + (euler - euler * 0.25 / 0.5) / 0.5) / 2
    assert SOLVERS["heun"](denoiser, x, high, low).item() == pytest.approx(heun)


def test_heun_at_level_zero_is_eulers_step() -> None:
    x, high, zero = torch.randn(3, 1), torch.full((3,), 0.3), torch.zeros(3)
    torch.testing.assert_close(
        SOLVERS["heun"](denoiser, x, high, zero), denoiser(x, high), rtol=1e-5, atol=1e-6
    )


# Sampling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("churn", [0.0, 30.0])
def test_samples_have_the_law_of_the_data(churn: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40_000, 1, generator=generator)
    x = solve(denoiser, z, [*karras(80), 0.0], churn=churn, generator=generator)
    assert x.std().item() == pytest.approx(S, rel=0.02)


def test_churn_draws_noise_within_its_limits_only() -> None:
    z = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    levels = [*karras(10), 0.0]
    calm = solve(denoiser, z, levels)
    assert torch.equal(solve(denoiser, z, levels, churn=5.0, churn_min=50.0), calm)
    one, two, other = (
        solve(denoiser, z, levels, churn=5.0, generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert not torch.equal(one, calm)


def test_a_trajectory_has_a_point_a_level_and_ends_in_the_sample() -> None:
    z = torch.randn(5, 1, dtype=torch.float64)
    levels = [*karras(6), 0.0]
    points = trajectory(denoiser, z, levels)
    assert len(points) == len(levels)
    assert torch.equal(points[0], levels[0] * z)
    assert torch.equal(points[-1], solve(denoiser, z, levels))
    assert points[-1].dtype == torch.float64


def test_solving_is_differentiable() -> None:
    a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    z = torch.randn(4, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda w: solve(lambda x, s: torch.sin(w * x), z, [3.0, 1.0, 0.2, 0.0]), (a,)
    )


@pytest.mark.parametrize("levels", [[], [1.0], [1.0, 1.0], [1.0, 2.0], [1.0, -0.1]])
def test_bad_levels_are_refused(levels: list[float]) -> None:
    with pytest.raises(ValueError, match="levels must decrease"):
        solve(denoiser, torch.zeros(2, 1), levels)


# Distillation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_cd_takes_its_target_one_step_of_the_teacher_away(solver: str) -> None:
    p = KarrasParameterization(0.5, 0.01, 20.0)
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> object:
        def f(x: Tensor, sigma: Tensor) -> Tensor:
            seen[name] = (x, sigma)
            return x

        return f

    loss = ConsistencyDistillation(num_levels=30, solver=solver)
    x0 = S * torch.randn(200, 1).double()
    one = torch.ones((), dtype=torch.float64)
    loss(watch("online"), watch("target"), x0, p, one, teacher=denoiser)  # type: ignore[arg-type]
    (x_high, high), (x_low, low) = seen["online"], seen["target"]
    torch.testing.assert_close(x_low, SOLVERS[solver](denoiser, x_high, high, low))
    assert (low < high).all()
    assert loss.target_decay(one).item() == pytest.approx(0.95)


# Denoising ---------------------------------------------------------------------------------------


def test_the_exact_denoiser_has_loss_one_a_dimension() -> None:
    """λ(σ) E‖D − x₀‖² = (σ²+σ_d²)/(σσ_d)² · s²σ²/(s²+σ²) = 1 for s = σ_d: EDM's weighting."""
    p = EDMParameterization(S, 0.002, 80.0)
    x0 = S * torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    one = torch.ones(())
    loss = DenoisingScoreMatching()
    generator = torch.Generator().manual_seed(1)
    value = loss(denoiser, denoiser, x0, p, one, generator)
    assert value.mean().item() == pytest.approx(1.0, rel=0.01)


def test_the_networks_target_has_variance_one() -> None:
    """Karras et al. 2022, eq. 7: with F = 0 the loss is that of D = c_skip x, 1 a dimension."""
    p = EDMParameterization(S, 0.002, 80.0)
    x0 = S * torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0))

    def d(x: Tensor, sigma: Tensor) -> Tensor:
        return p(lambda x, c, k: 0 * x, x, sigma)

    generator = torch.Generator().manual_seed(1)
    value = DenoisingScoreMatching()(d, d, x0, p, torch.ones(()), generator)
    assert value.mean().item() == pytest.approx(1.0, rel=0.02)


def test_levels_of_denoising_are_lognormal() -> None:
    seen: list[Tensor] = []

    def d(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(sigma)
        return x

    p = EDMParameterization(S, 1e-4, 1e3)
    generator = torch.Generator().manual_seed(0)
    DenoisingScoreMatching()(d, d, torch.zeros(50_000, 1), p, torch.ones(()), generator)
    assert seen[0].log().mean().item() == pytest.approx(-1.2, abs=0.02)
    assert seen[0].log().std().item() == pytest.approx(1.2, abs=0.02)


# Levels ------------------------------------------------------------------------------------------


def test_ect_by_hand() -> None:
    """r = t (1 − q^{−(stage+1)} (1 + 8 sigmoid(−t))), at least 0."""
    for t in (0.01, 0.5, 3.0, 80.0):
        for stage in (0, 1, 3, 7):
            r = t * (1 - 2.0 ** -(stage + 1) * (1 + 8 / (1 + math.exp(t))))
            value = ect_lower_level(torch.tensor(t).double(), torch.tensor(float(stage)))
            assert value.item() == pytest.approx(max(r, 0.0), rel=1e-6)


def test_the_speed_of_the_karras_curve() -> None:
    grid = karras_sigmas(100_001, 0.01, 20.0).flip(0)
    middle = grid[5_000:-5_000:9_000].contiguous()
    index = torch.searchsorted(grid, middle)
    slope = (grid[index + 1] - grid[index - 1]) / 2e-5
    torch.testing.assert_close(karras_speed(middle, 0.01, 20.0), slope, rtol=1e-5, atol=0)


# The denoiser of a batch -------------------------------------------------------------------------


def test_the_batch_denoiser_against_a_loop() -> None:
    """Σ_j x_j exp(−‖x − x_j‖²/2σ² − ‖c − c_j‖²/2h²) / Σ_j …"""
    g = torch.Generator().manual_seed(0)
    x0 = torch.randn(12, 2, generator=g, dtype=torch.float64)
    x = torch.randn(12, 2, generator=g, dtype=torch.float64)
    sigma = torch.rand(12, generator=g, dtype=torch.float64) + 0.1
    label = torch.nn.functional.one_hot(torch.arange(12) % 3).double()
    number = torch.rand(12, 1, generator=g, dtype=torch.float64)
    for condition in (None, label, number):
        d = batch_denoiser(x0, condition, bandwidth=0.2)(x, sigma)
        for i in range(12):
            weight = [
                math.exp(
                    -float((x[i] - x0[j]).square().sum()) / (2 * float(sigma[i]) ** 2)
                    - (
                        0.0
                        if condition is None
                        else float((condition[i] - condition[j]).square().sum())
                    )
                    / (2 * 0.2**2)
                )
                for j in range(12)
            ]
            mean = sum(w * x0[j] for j, w in enumerate(weight)) / sum(weight)
            torch.testing.assert_close(d[i], mean)


def test_references_count_as_samples_of_the_batch() -> None:
    g = torch.Generator().manual_seed(0)
    x0, condition = torch.randn(12, 2, generator=g), torch.rand(12, 1, generator=g)
    x, sigma = torch.randn(12, 2, generator=g), torch.rand(12, generator=g) + 0.1
    whole = batch_denoiser(x0, condition)(x, sigma)
    parted = batch_denoiser(x0[:5], condition[:5], (x0[5:], condition[5:]))
    torch.testing.assert_close(parted(x[:5], sigma[:5]), whole[:5])
    parted = batch_denoiser(x0[:5], None, (x0[5:], None))
    torch.testing.assert_close(parted(x[:5], sigma[:5]), batch_denoiser(x0)(x, sigma)[:5])


def test_a_condition_of_its_own_gives_every_sample_back() -> None:
    x0, condition = torch.randn(6, 2, 2), torch.arange(6)[:, None]
    d = batch_denoiser(x0, condition)(torch.randn(6, 2, 2), torch.full((6,), 80.0))
    torch.testing.assert_close(d, x0)


def test_denoising_towards_a_target_has_the_gradient_of_denoising_in_expectation() -> None:
    """d/da E‖a − x₀‖² is the same with E[x₀ | x_σ] for x₀, and varies less."""
    x0 = S * torch.randn(40_000, 1, generator=torch.Generator().manual_seed(0)).double()
    p = EDMParameterization(S, 1.0, 80.0)  # where x_σ says little of x₀
    gradients = []
    for teacher in (None, denoiser):
        a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        f = lambda x, sigma, a=a: a + 0 * x  # noqa: E731
        generator = torch.Generator().manual_seed(1)
        value = DenoisingScoreMatching()(f, f, x0, p, torch.ones(()), generator, teacher=teacher)
        groups = value.view(40, 1_000).mean(1)
        gradients.append(
            torch.stack([torch.autograd.grad(g, a, retain_graph=True)[0] for g in groups])
        )
    plain, stable = gradients
    assert abs(plain.mean() - stable.mean()) < 4 * (plain - stable).std() / math.sqrt(40)
    assert plain.var() > 1.5 * stable.var()


def test_a_large_batch_knows_the_posterior_mean() -> None:
    x0 = S * torch.randn(4_000, 1, generator=torch.Generator().manual_seed(0))
    sigma = torch.linspace(0.1, 5, 4_000)
    x = x0 + sigma[:, None] * torch.randn(4_000, 1, generator=torch.Generator().manual_seed(1))
    error = batch_denoiser(x0)(x, sigma) - denoiser(x, sigma)
    assert error.square().mean().sqrt() < 0.03
