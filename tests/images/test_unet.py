"""The U-Net: shapes, zero start, labels, layers, shared masks, forward derivatives, precisions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cmpolicy.consistency.continuous import prepare_forward_mode
from cmpolicy.images.config import UNetConfig
from cmpolicy.images.unet import UNet
from cmpolicy.images.unet_layers import Down, GroupNorm, Up
from cmpolicy.networks.shared_dropout import SharedDropout, share_masks

prepare_forward_mode()
SMALL: dict[str, Any] = {"channels": 8, "multipliers": [1, 2], "blocks": 1}
GREY = (1, 8, 8)
FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def unet(shape: tuple[int, int, int] = GREY, classes: int = 3, **sizes: Any) -> UNet:
    """A small network whose zero weights are replaced."""
    torch.manual_seed(0)
    network = UNet(shape, classes, UNetConfig(**{**SMALL, **sizes}))
    with torch.no_grad():
        for p in network.parameters():
            if not p.any():
                p.normal_(std=0.1)
    return network


def inputs(
    shape: tuple[int, int, int] = GREY, batch: int = 4, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *shape, generator=g, dtype=dtype)
    return x, torch.randn(batch, generator=g, dtype=dtype), torch.arange(batch) % 3


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (GREY, {}),
        ((1, 28, 28), {"patch": 2}),
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
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


def test_the_output_is_zero_before_training() -> None:
    assert not UNet(GREY, 3, UNetConfig(**SMALL))(*inputs()).any()


@pytest.mark.parametrize("sizes", [{}, {"patch": 3}], ids=str)
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


@pytest.mark.parametrize(
    ("shape", "sizes", "millions"),
    [
        (GREY, {"channels": 32, "multipliers": [1, 2]}, 0.67),
        # EDM's DDPM++
        ((3, 32, 32), {"channels": 128, "multipliers": [2, 2, 2], "blocks": 4, "attention": [16]},
         59),
    ],
)  # fmt: skip
def test_numbers_of_parameters(
    shape: tuple[int, int, int], sizes: dict[str, Any], millions: float
) -> None:
    network = UNet(shape, 10, UNetConfig(**sizes))
    found = sum(p.numel() for p in network.parameters()) / 1e6
    assert found == pytest.approx(millions, rel=0.02)


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
    each = [network(x[i : i + 1], c[i : i + 1], label[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(network(x, c, label), torch.cat(each), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("resample", ["pool", "fir"])
def test_up_is_four_times_the_adjoint_of_down(resample: str) -> None:
    x, y = torch.randn(2, 4, 8, 6), torch.randn(2, 4, 4, 3)
    down, up = Down(resample)(x), Up(resample)(y)
    assert (down.shape, up.shape) == (y.shape, x.shape)
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
    assert torch.equal(target(x, c, label), y)
    share_masks(network, 5, shifts[2:])  # a part of a batch has the masks of the whole
    part = network(x[2:], c[2:], label[2:])
    torch.testing.assert_close(part, y[2:], rtol=1e-4, atol=1e-5)
    for other in ((6, shifts), (5, torch.rand(4))):
        share_masks(network, *other)
        assert not torch.allclose(network(x, c, label), y)
    share_masks(network, 0, None)
    assert not torch.equal(network(x, c, label), network(x, c, label))
    network.eval()
    assert torch.equal(network(x, c, label), unet().eval()(x, c, label))


def test_masks_are_those_of_dropout() -> None:
    """Each value is dropped with probability p, two places and two samples independently."""
    p, layer, n = 0.3, SharedDropout(0.3), 4_000
    share_masks(layer, 1, torch.rand(n, generator=torch.Generator().manual_seed(2)))
    kept = layer(torch.ones(n, 2, 10, 10))
    torch.testing.assert_close(kept.unique(), torch.tensor([0, 1 / (1 - p)]))
    dropped = (kept == 0).double().flatten(1)
    assert dropped.mean().item() == pytest.approx(p, abs=0.005)
    neighbours = (dropped[:, :-1] * dropped[:, 1:]).mean()
    assert neighbours.item() == pytest.approx(p**2, abs=0.03)
    pairs = (dropped[: n // 2] * dropped[n // 2 :]).mean()
    assert pairs.item() == pytest.approx(p**2, abs=0.01)


# Derivatives and precision -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes", [{"attention": [8]}, {"resample": "fir"}, {"patch": 2}, {"dropout": 0.2}], ids=str
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


def test_bfloat16_is_near_and_keeps_the_dtype() -> None:
    network = unet(attention=[4])
    x, c, label = inputs()
    exact = network(x, c, label)
    network.autocast = True
    y = network(x, c, label)
    assert y.dtype == torch.float32
    assert 0 < (y - exact).norm() < 0.02 * exact.norm()
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
    _, derivative = torch.func.jvp(lambda a: network(a, c, label), (x,), (torch.ones_like(x),))
    assert derivative.isfinite().all()
    assert network.double()(x.double(), c.double(), label).dtype == torch.float64


# Group normalisation -----------------------------------------------------------------------------


def test_groups_divide_the_channels() -> None:
    found = {channels: GroupNorm(channels).groups for channels in (8, 32, 48, 128, 256, 384)}
    assert found == {8: 2, 32: 8, 48: 4, 128: 32, 256: 32, 384: 32}


@pytest.mark.parametrize("layout", FORMATS, ids=str)
def test_values_and_gradients_are_those_of_pytorch(layout: torch.memory_format) -> None:
    x = (3 + 2 * torch.randn(4, 8, 5, 3)).to(memory_format=layout)
    mine, theirs = GroupNorm(8), nn.GroupNorm(2, 8)
    nn.init.normal_(mine.weight)
    nn.init.normal_(mine.bias)
    theirs.load_state_dict(mine.state_dict())
    results = []
    for norm in (mine, theirs):
        leaf = x.clone().requires_grad_()
        y = norm(leaf)
        y.sin().sum().backward()
        results.append((y, leaf.grad, norm.weight.grad, norm.bias.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    wide = (100 + torch.randn(4, 8, 5, 3)).bfloat16()
    torch.testing.assert_close(mine(wide), mine(wide.float()).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("layout", FORMATS, ids=str)
def test_the_derivative_along_a_direction(layout: torch.memory_format) -> None:
    norm = GroupNorm(8).double()
    x, dx = (torch.randn(2, 8, 4, 4).double().to(memory_format=layout) for _ in range(2))
    weights = {k: p.detach() for k, p in norm.named_parameters()}
    dw = {k: torch.randn_like(p) for k, p in weights.items()}

    def f(at: Tensor, given: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(norm, given, (at,))

    h = 1e-6
    with torch.no_grad():
        ahead, behind = (
            f(x + s * dx, {k: p + s * dw[k] for k, p in weights.items()}) for s in (h, -h)
        )
        y, derivative = torch.func.jvp(f, (x, weights), (dx, dw))
        of_x = torch.func.jvp(lambda at: f(at, weights), (x,), (dx,))[1]
        of_weights = torch.func.jvp(lambda given: f(x, given), (weights,), (dw,))[1]
    torch.testing.assert_close(y, norm(x))
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(of_x + of_weights, derivative)
