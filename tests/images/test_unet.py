"""The U-Net: shapes, zero start, labels, shared masks, forward-mode derivatives, precisions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cmpolicy.consistency.continuous import prepare_forward_mode
from cmpolicy.images.unet import UNet, UNetConfig
from cmpolicy.images.unet_layers import Down, Up
from cmpolicy.networks.shared_dropout import SharedDropout, share_masks

prepare_forward_mode()
SMALL: dict[str, Any] = {"channels": 8, "multipliers": [1, 2], "blocks": 1}


def unet(shape: tuple[int, int, int] = (1, 8, 8), classes: int = 3, **sizes: Any) -> UNet:
    """A small network in which nothing is zero any more."""
    torch.manual_seed(0)
    network = UNet(shape, classes, UNetConfig(**{**SMALL, **sizes}))
    with torch.no_grad():
        for p in network.parameters():
            if not p.any():
                p.normal_(std=0.1)
    return network


def inputs(
    shape: tuple[int, int, int] = (1, 8, 8), batch: int = 4, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *shape, generator=g, dtype=dtype)
    return x, torch.randn(batch, generator=g, dtype=dtype), torch.arange(batch) % 3


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((1, 8, 8), {}),
        ((1, 28, 28), {"patch": 2}),
        ((1, 28, 28), {"multipliers": [1, 1, 2]}),
        ((3, 32, 32), {"multipliers": [1, 2, 2, 2], "attention": [16, 8], "blocks": 2}),
        ((3, 16, 8), {"resample": "fir", "attention": [16]}),
    ],
    ids=str,
)
def test_images_of_every_size(shape: tuple[int, int, int], sizes: dict[str, Any]) -> None:
    network = unet(shape, **sizes)
    x, c, label = inputs(shape, 2)
    y = network(x, c, label)
    assert y.shape == x.shape
    y.square().sum().backward()
    unused = [n for n, p in network.named_parameters() if p.grad is None]
    assert unused == []


def test_the_output_is_zero_at_first() -> None:
    network = UNet((1, 8, 8), 3, UNetConfig(**SMALL))
    assert not network(*inputs()).any()


@pytest.mark.parametrize("sizes", [{}, {"patch": 3}, {"patch": 4}], ids=str)
def test_a_size_that_cannot_be_halved_is_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"28×28 do not fit network.patch=. with"):
        UNet((1, 28, 28), 0, UNetConfig(**{**SMALL, "multipliers": [1, 1, 1, 1], **sizes}))


@pytest.mark.parametrize(
    "sizes",
    [{"channels": 6}, {"multipliers": []}, {"blocks": 0}, {"patch": 0}, {"resample": "x"},
     {"dropout": 1.0}],
    ids=str,
)  # fmt: skip
def test_sizes_out_of_range_are_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"network needs|need resample"):
        UNetConfig(**sizes)


def test_sizes_from_half_a_million_to_that_of_edm() -> None:
    def millions(shape: tuple[int, int, int], **sizes: Any) -> float:
        network = UNet(shape, 10, UNetConfig(**sizes))
        return sum(p.numel() for p in network.parameters()) / 1e6

    assert millions((1, 8, 8), channels=32, multipliers=[1, 2]) == pytest.approx(0.67, abs=0.05)
    ddpmpp = {"channels": 128, "multipliers": [2, 2, 2], "blocks": 4, "attention": [16]}
    assert millions((3, 32, 32), **ddpmpp) == pytest.approx(59, abs=1)


# Labels ------------------------------------------------------------------------------------------


def test_each_label_and_none_give_another_function() -> None:
    network = unet()
    x, c, _ = inputs()
    ys = [network(x, c, torch.full((4,), k)) for k in (0, 1, 2, -1)]
    assert all(not torch.allclose(a, b) for i, a in enumerate(ys) for b in ys[:i])
    assert torch.equal(network(x, c, None), ys[3])
    assert torch.equal(unet(classes=0)(x, c, None), unet(classes=0)(x, c))


def test_samples_do_not_see_each_other() -> None:
    network = unet(attention=[8, 4])
    x, c, label = inputs()
    whole = network(x, c, label)
    each = [network(x[i : i + 1], c[i : i + 1], label[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(whole, torch.cat(each), rtol=1e-4, atol=1e-5)


# Resampling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("resample", ["pool", "fir"])
def test_up_is_four_times_the_adjoint_of_down(resample: str) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 4, 8, 6, generator=g), torch.randn(2, 4, 4, 3, generator=g)
    down, up = Down(resample)(x), Up(resample)(y)
    assert down.shape == y.shape
    assert up.shape == x.shape
    torch.testing.assert_close((up * x).sum(), 4 * (y * down).sum())
    inner = Down(resample)(torch.ones(1, 4, 8, 8))[:, :, 1:-1, 1:-1]  # the filter fades at borders
    torch.testing.assert_close(inner, torch.ones_like(inner))


# Dropout -----------------------------------------------------------------------------------------


def test_online_and_target_drop_the_same_values() -> None:
    network, target = unet(dropout=0.3), unet(dropout=0.3)
    x, c, label = inputs()
    shifts = torch.rand(4)
    for f in (network, target):
        share_masks(f, 5, shifts)
    y = network(x, c, label)
    with torch.no_grad():
        assert torch.equal(target(x, c, label), y)
        assert torch.equal(network(x, c, label), y)
    share_masks(network, 6, shifts)
    assert not torch.allclose(network(x, c, label), y)
    share_masks(network, 5, torch.rand(4))
    assert not torch.allclose(network(x, c, label), y)
    share_masks(network, 0, None)
    assert not torch.equal(network(x, c, label), network(x, c, label))
    network.eval()
    assert torch.equal(network(x, c, label), unet().eval()(x, c, label))


def test_a_part_of_a_batch_has_the_masks_of_the_whole() -> None:
    network = unet(dropout=0.3)
    x, c, label = inputs()
    shifts = torch.rand(4)
    share_masks(network, 5, shifts)
    whole = network(x, c, label)
    share_masks(network, 5, shifts[2:])
    part = network(x[2:], c[2:], label[2:])
    torch.testing.assert_close(part, whole[2:], rtol=1e-4, atol=1e-5)


def test_masks_are_those_of_dropout() -> None:
    """Each value falls with probability p, two places and two samples independently."""
    p, layer = 0.3, SharedDropout(0.3)
    n = 4_000
    share_masks(layer, 1, torch.rand(n, generator=torch.Generator().manual_seed(2)))
    dropped = (layer(torch.ones(n, 2, 10, 10)) == 0).double()
    assert dropped.mean().item() == pytest.approx(p, abs=0.005)
    kept = layer(torch.ones(n, 2, 10, 10)).unique()
    torch.testing.assert_close(kept, torch.tensor([0, 1 / (1 - p)]))
    places = dropped.flatten(1)
    neighbours = (places[:, :-1] * places[:, 1:]).mean()
    assert neighbours.item() == pytest.approx(p**2, abs=0.03)
    pairs = (places[: n // 2] * places[n // 2 :]).mean()
    assert pairs.item() == pytest.approx(p**2, abs=0.01)


# Forward-mode derivatives ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [{"attention": [8]}, {"resample": "fir"}, {"patch": 2}, {"dropout": 0.2}],
    ids=str,
)
def test_the_forward_derivative_is_that_of_small_steps(sizes: dict[str, Any]) -> None:
    network = unet(**sizes).double()
    x, c, label = inputs(dtype=torch.float64)
    share_masks(network, 3, torch.rand(4, dtype=torch.float64))
    dx, dc = torch.randn_like(x), torch.randn_like(c)
    value, derivative = torch.func.jvp(lambda a, b: network(a, b, label), (x, c), (dx, dc))
    h = 1e-6
    with torch.no_grad():
        ahead, behind = (network(x + s * dx, c + s * dc, label) for s in (h, -h))
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(value, network(x, c, label))


def test_bfloat16_is_near_and_keeps_the_type() -> None:
    network = unet(attention=[4])
    x, c, label = inputs()
    exact = network(x, c, label)
    network.autocast = True
    y = network(x, c, label)
    assert y.dtype == torch.float32
    assert not torch.equal(y, exact)
    assert (y - exact).norm() < 0.02 * exact.norm()
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
    _, derivative = torch.func.jvp(lambda a: network(a, c, label), (x,), (torch.ones_like(x),))
    assert derivative.isfinite().all()
    assert network.double()(x.double(), c.double(), label).dtype == torch.float64
