"""Sampling at known levels is the sampling of `multistep`."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from cmpolicy.consistency.parameterization import (
    PARAMETERIZATIONS,
    EDMParameterization,
    Parameterization,
)
from cmpolicy.consistency.sampling import multistep
from cmpolicy.consistency.solvers import solve
from cmpolicy.networks.embeddings import EMBEDDINGS
from cmpolicy.networks.mlp import ConditionalMLP
from cmpolicy.policy.few_step_sampler import EulerSampler, FewStepSampler

LEVELS = [[80.0], [80.0, 2.0], [50.0, 5.0, 0.3]]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def made(name: str) -> Parameterization:
    return PARAMETERIZATIONS[name](0.5, 0.002, 80.0)


def sampled(
    name: str, network: ConditionalMLP, levels: Sequence[float], z: Tensor, s: Tensor, squash: bool
) -> Tensor:
    """The same by `multistep`."""

    def f(x: Tensor, sigma: Tensor) -> Tensor:
        x0 = made(name)(network, x.tanh() if squash else x, sigma, s)
        return x0.tanh() if squash else x0

    return multistep(f, z, levels, made(name).boundary, generator())


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize(
    ("embedding", "levels", "squash", "batch"),
    [
        ("fourier", LEVELS[0], True, 6),
        ("fourier", LEVELS[2], False, 1),
        ("sinusoidal", LEVELS[1], False, 6),
        ("sinusoidal", LEVELS[2], True, 1),
    ],
)
def test_it_is_multistep(
    parameterization: str, embedding: str, levels: list[float], squash: bool, batch: int
) -> None:
    network = ConditionalMLP(2, 3, (16, 16), embedding=embedding).double()
    z, s = torch.randn(batch, 2).double(), torch.randn(batch, 3).double()
    sampler = FewStepSampler(made(parameterization), levels, network.embedding, z, squash)
    x = sampler.sample(network, z, s, generator())
    assert x.dtype == torch.float64
    expected = sampled(parameterization, network, levels, z, s, squash)
    torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("sigma", [0.01, 0.5, 80.0])
def test_coefficients_are_those_of_f(parameterization: str, sigma: float) -> None:
    p, x, raw = made(parameterization), torch.randn(4, 2).double(), torch.randn(4, 2).double()
    seen: list[tuple[Tensor, Tensor]] = []

    def network(x: Tensor, c_noise: Tensor, condition: Tensor | None, /) -> Tensor:
        seen.append((x, c_noise))
        return raw

    c = p.coefficients(sigma)
    f = p(network, x, torch.full((4,), sigma).double())
    torch.testing.assert_close(c.c_skip * x + c.c_out * raw, f, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(c.c_in * x, seen[0][0])
    torch.testing.assert_close(torch.full((4,), c.c_noise).double(), seen[0][1])


def test_noise_can_be_given_for_every_step() -> None:
    network = ConditionalMLP(2, 3, (16,))
    s, first = torch.randn(5, 3), torch.randn(5, 2)
    sampler = FewStepSampler(made("karras"), LEVELS[2], network.embedding, s)
    g = generator()
    rest = [torch.randn(5, 2, generator=g) for _ in LEVELS[2][1:]]
    given = sampler.sample(network, torch.stack([first, *rest], 1), s)
    assert torch.equal(sampler.sample(network, first, s, generator()), given)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_gradients_reach_all_that_learns(embedding: str) -> None:
    network = ConditionalMLP(2, 3, (16,), embedding=embedding)
    sampler = FewStepSampler(made("karras"), [80.0, 2.0], network.embedding, torch.zeros(1))
    sampler.sample(network, torch.randn(5, 2), torch.randn(5, 3)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_what_is_learned_is_not_kept() -> None:
    """Levels embedded by weights must follow the weights."""
    network = ConditionalMLP(2, 3, (16,), embedding="sinusoidal")
    z, s = torch.randn(5, 2), torch.randn(5, 3)
    sampler = FewStepSampler(made("karras"), [80.0], network.embedding, z)
    before = sampler.sample(network, z, s)
    for p in network.embedding.parameters():
        nn.init.normal_(p)
    assert not torch.equal(sampler.sample(network, z, s), before)


def test_it_holds_nothing_to_save_and_can_be_copied_and_moved() -> None:
    network = ConditionalMLP(2, 3, (16,))
    sampler = FewStepSampler(made("karras"), [80.0, 2.0], network.embedding, torch.zeros(1))
    assert not sampler.state_dict()
    z, s = torch.randn(5, 2, 2), torch.randn(5, 3)
    x = sampler.sample(network, z, s)
    twin = copy.deepcopy(sampler).double().sample(network.double(), z.double(), s.double())
    assert (x.dtype, twin.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(twin.float(), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [[], [2.0, 80.0], [80.0, 80.0], [80.0, 0.001]])
def test_impossible_levels_are_refused(levels: list[float]) -> None:
    with pytest.raises(ValueError, match="strictly decreasing"):
        FewStepSampler(made("karras"), levels, EMBEDDINGS["fourier"](), torch.zeros(1))


@pytest.mark.parametrize("levels", [[3.0], [3.0, 1.0, 0.2], [10.0, 0.05]])
def test_euler_steps_are_those_of_the_solver(levels: list[float]) -> None:
    p = EDMParameterization(0.5, 0.02, 10.0)
    network = ConditionalMLP(2, 3, [16, 16]).double()
    noise, condition = torch.randn(7, 2).double(), torch.randn(7, 3).double()
    expected = solve(
        lambda x, sigma: p(network, x, sigma, condition), noise, [*levels, 0.0], "euler"
    )
    sampler = EulerSampler(p, levels, network.embedding, noise)
    torch.testing.assert_close(sampler.sample(network, noise, condition), expected)
    assert sampler.steps == len(levels)
