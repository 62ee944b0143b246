"""Averages of weights, above all their direction."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cmpolicy.consistency.ema import ema_update, rising_decay


def two_networks(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    average = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)
    torch.manual_seed(1)
    return average, nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(("decay", "dtype"), [(0.3, torch.float32), (0.995, torch.float64)])
def test_the_average_against_a_loop(decay: float, as_tensor: bool, dtype: torch.dtype) -> None:
    average, model = two_networks(dtype)
    expected = [
        decay * a.detach().double() + (1 - decay) * b.detach().double()
        for a, b in zip(average.parameters(), model.parameters(), strict=True)
    ]
    pointers = [p.data_ptr() for p in average.parameters()]
    ema_update(average, model, torch.tensor(decay) if as_tensor else decay)
    assert [p.data_ptr() for p in average.parameters()] == pointers
    assert all(p.grad_fn is None for p in average.parameters())
    for a, e in zip(average.parameters(), expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.detach().double(), e, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_direction(as_tensor: bool) -> None:
    """Trap: public code has it inverted. A decay of 1 keeps the average, of 0 takes the model."""
    average, model = two_networks()
    before, online = copy.deepcopy(average), copy.deepcopy(model)
    ema_update(average, model, torch.tensor(1.0) if as_tensor else 1.0)
    for a, b in zip(average.parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b)
    ema_update(average, model, torch.tensor(0.0) if as_tensor else 0.0)
    for a, b in zip(average.parameters(), online.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(model.parameters(), online.parameters(), strict=True):
        assert torch.equal(a, b)  # the model itself never moves


def test_buffers_are_copied_not_averaged() -> None:
    average, model = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    model(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    ema_update(average, model, 0.99)
    assert average.num_batches_tracked is not None
    assert int(average.num_batches_tracked) == 1
    assert average.running_mean is not None
    assert model.running_mean is not None
    assert torch.equal(average.running_mean, model.running_mean)
    assert average.running_mean.data_ptr() != model.running_mean.data_ptr()


def test_modules_of_different_structure_are_refused() -> None:
    with pytest.raises((RuntimeError, ValueError)):
        ema_update(nn.Linear(3, 4), nn.Linear(3, 4, bias=False), 0.9)


@pytest.mark.parametrize("step", [0, 1, 8, 90, 10_000])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_decay_rises_to_what_was_asked(decay: float, step: int) -> None:
    expected = min(decay, (1 + step) / (10 + step))
    assert rising_decay(decay, step) == expected
    as_tensor = rising_decay(decay, torch.tensor(step))
    assert isinstance(as_tensor, torch.Tensor)
    assert as_tensor.shape == ()
    assert float(as_tensor) == pytest.approx(expected, rel=1e-6)
