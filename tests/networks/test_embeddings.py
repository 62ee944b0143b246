"""Embeddings of the noise level against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from cmpolicy.networks.embeddings import EMBEDDINGS, FourierEmbedding, SinusoidalEmbedding

LEVELS = [-1.55, 0.0, 0.3, 1.1]


@pytest.mark.parametrize("dim", [4, 16])
def test_fourier_against_a_loop(dim: int) -> None:
    embedding = FourierEmbedding(dim, 0.5, 8.0)
    out = embedding(torch.tensor(LEVELS))
    half = dim // 2
    omega = [0.5 * 16 ** (i / (half - 1)) for i in range(half)]
    for row, c in zip(out.tolist(), LEVELS, strict=True):
        expected = [c, *(math.sin(w * c) for w in omega), *(math.cos(w * c) for w in omega)]
        assert row == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("dim", [4, 16])
def test_sinusoidal_against_a_loop(dim: int) -> None:
    embedding = SinusoidalEmbedding(dim)
    half = dim // 2
    omega = [10_000 ** (-i / (half - 1)) for i in range(half)]
    rows = [[*(math.sin(w * c) for w in omega), *(math.cos(w * c) for w in omega)] for c in LEVELS]
    expected = embedding.network(torch.tensor(rows))
    torch.testing.assert_close(embedding(torch.tensor(LEVELS)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EMBEDDINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype(name: str, dtype: torch.dtype) -> None:
    embedding = EMBEDDINGS[name](16).to(dtype)
    out = embedding(torch.tensor(LEVELS, dtype=dtype))
    assert out.shape == (4, embedding.dim)
    assert out.dtype == dtype


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_distinct_levels_get_distinct_embeddings(name: str) -> None:
    torch.manual_seed(0)
    out = EMBEDDINGS[name]()(torch.linspace(-1.55, 1.1, 40))
    assert torch.pdist(out).min() > 1e-3


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_frequencies_are_constants_that_no_checkpoint_carries(name: str) -> None:
    embedding = EMBEDDINGS[name]()
    assert "frequencies" not in embedding.state_dict()
    assert not embedding.frequencies.requires_grad
