"""Random numbers of one generator, and of many in its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cmpolicy.consistency.randomness import (
    NoiseRequest,
    RecordedNoise,
    draw,
    draw_softmax,
    drawing_from,
    noise_requests,
    normal,
    normal_like,
    sobol_normal,
    uniform,
)

LIKE = torch.zeros((), dtype=torch.float64)
SHAPES = [(3,), (16,), (33, 2), (0,), ()]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws() -> tuple[Tensor, ...]:
    """What a loss and a sampler might draw."""
    x = torch.zeros(33, 2)
    return (*draw(x), normal((5,), x), normal_like(x, None), uniform((2, 3), LIKE))


@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_are_torchs_own(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    ours = normal(shape, LIKE), uniform(shape, LIKE), normal(shape, LIKE, seeded(2))
    torch.manual_seed(1)
    assert torch.equal(ours[0], torch.randn(shape, dtype=torch.float64))
    assert torch.equal(ours[1], torch.rand(shape, dtype=torch.float64))
    assert torch.equal(ours[2], torch.randn(shape, dtype=torch.float64, generator=seeded(2)))


def test_an_index_is_torchs_own() -> None:
    values = 3 * torch.randn(200, 7, generator=seeded(0))
    rates = values.softmax(1)
    theirs = torch.multinomial(rates, 1, generator=seeded(2)).squeeze(1)
    assert torch.equal(draw_softmax(values, seeded(2)), theirs)
    torch.manual_seed(3)
    ours = draw_softmax(values)
    torch.manual_seed(3)
    assert torch.equal(ours, torch.multinomial(rates, 1).squeeze(1))
    assert not torch.equal(ours, theirs)
    [request] = noise_requests(lambda: draw_softmax(values))
    times = request.fill(torch.empty_like(values), seeded(2))
    with drawing_from(lambda _: times):
        assert torch.equal(draw_softmax(values), theirs)


def test_a_substitute_answers_for_the_global_generator_alone() -> None:
    asked: list[NoiseRequest] = []

    def source(request: NoiseRequest) -> Tensor:
        asked.append(request)
        return torch.full(request.shape, 7.0)

    torch.manual_seed(0)
    state = torch.get_rng_state()
    with drawing_from(source):
        assert all(bool((numbers == 7).all()) for numbers in draws())
        own = normal((3,), LIKE, seeded(0))
    assert torch.equal(own, torch.randn(3, dtype=torch.float64, generator=seeded(0)))
    assert [(r.law, tuple(r.shape)) for r in asked] == [
        ("normal_", (33, 2)),
        ("uniform_", (33,)),
        ("normal_", (5,)),
        ("normal_", (33, 2)),
        ("uniform_", (2, 3)),
    ]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_substitute_leaves_with_an_error() -> None:
    def refuse(request: NoiseRequest) -> Tensor:
        raise LookupError

    with pytest.raises(LookupError), drawing_from(refuse):
        normal((1,), LIKE)
    assert normal((1,), LIKE).shape == (1,)


def test_recorded_noise_gives_each_seed_what_it_would_draw_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    recording = RecordedNoise(noise_requests(draws), 3)
    assert torch.equal(torch.get_rng_state(), state)
    places = [numbers.data_ptr() for numbers in recording.numbers]
    generators = [seeded(s) for s in (5, 1, 9)]
    recorded = []
    for _ in range(2):
        recording.record(generators)
        with drawing_from(recording.source(recording.numbers)):
            recorded.append([numbers.clone() for numbers in draws()])
        recording.check_read()
    assert places == [numbers.data_ptr() for numbers in recording.numbers]
    for i, seed in enumerate((5, 1, 9)):
        torch.manual_seed(seed)
        for update in recorded:
            for numbers, alone in zip(update, draws(), strict=True):
                assert torch.equal(numbers[i], alone)


def test_recorded_noise_refuses_draws_that_it_does_not_hold() -> None:
    recording = RecordedNoise(noise_requests(lambda: normal((4,), LIKE)), 2)
    recording.record([seeded(0), seeded(1)])
    with pytest.raises(RuntimeError, match="drew 0 times from a recording of 1"):
        recording.check_read()
    with drawing_from(recording.source(recording.numbers)):
        with pytest.raises(RuntimeError, match="which the first call had not"):
            uniform((4,), LIKE)
        normal((4,), LIKE)
        with pytest.raises(RuntimeError, match="which the first call had not"):
            normal((4,), LIKE)


# Even points ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 3, 24])
def test_sobol_points_are_one_in_each_quantile(dim: int) -> None:
    """Of a power of two of them each 1/n of every axis's probability holds exactly one."""
    points = sobol_normal(32, dim)
    assert (points.shape, points.dtype) == ((32, dim), np.float32)
    quantile = torch.distributions.Normal(0, 1).cdf(torch.tensor(points, dtype=torch.float64))
    cells = (32 * quantile).floor().long().sort(0).values
    assert (cells == torch.arange(32)[:, None]).all()


def test_sobol_points_integrate_better_than_draws() -> None:
    """E[x₁² x₂²] = 1 of 256 points: the error of draws is √(8/256) = 0.18 on average."""
    for dim in (2, 5):
        points = sobol_normal(256, dim).astype(np.float64)
        assert abs((points[:, 0] ** 2 * points[:, 1] ** 2).mean() - 1) < 0.06
        assert np.abs(np.corrcoef(points.T) - np.eye(dim)).max() < 0.05


def test_sobol_points_are_always_the_same_and_finite() -> None:
    first = sobol_normal(2**14, 2).copy()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sobol_normal.cache_clear()
    np.testing.assert_array_equal(sobol_normal(2**14, 2), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(sobol_normal(5, 2), sobol_normal(8, 2)[:5])
