"""Group normalisation: the values of PyTorch's, and derivatives both ways."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cmpolicy.consistency.continuous import prepare_forward_mode
from cmpolicy.images.unet_layers import GroupNorm

FORMATS = [torch.contiguous_format, torch.channels_last]


def test_groups_divide_the_channels() -> None:
    found = {channels: GroupNorm(channels).groups for channels in (8, 32, 48, 128, 256, 384)}
    assert found == {8: 2, 32: 8, 48: 4, 128: 32, 256: 32, 384: 32}


@pytest.mark.parametrize("layout", FORMATS, ids=str)
def test_values_and_gradients_are_those_of_pytorch(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
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


@pytest.mark.parametrize("layout", FORMATS, ids=str)
def test_the_derivative_along_a_direction(layout: torch.memory_format) -> None:
    prepare_forward_mode()
    torch.manual_seed(0)
    norm = GroupNorm(8).double()
    x, dx = (torch.randn(2, 8, 4, 4).double().to(memory_format=layout) for _ in range(2))
    weights = dict(norm.named_parameters())
    dw = {name: torch.randn_like(p) for name, p in weights.items()}

    def f(at: torch.Tensor, given: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(norm, given, (at,))  # type: ignore[no-any-return]

    h = 1e-6
    with torch.no_grad():
        ahead, behind = (
            f(x + s * dx, {k: p + s * dw[k] for k, p in weights.items()}) for s in (h, -h)
        )
        values = {k: p.detach() for k, p in weights.items()}
        y, derivative = torch.func.jvp(f, (x, values), (dx, dw))
        of_x = torch.func.jvp(lambda at: f(at, values), (x,), (dx,))[1]
        of_weights = torch.func.jvp(lambda given: f(x, given), (values,), (dw,))[1]
    torch.testing.assert_close(y, norm(x))
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(of_x + of_weights, derivative)


def test_bfloat16_is_normalised_in_float32() -> None:
    torch.manual_seed(0)
    x = (100 + torch.randn(4, 8, 5, 3)).bfloat16()
    y = GroupNorm(8)(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, GroupNorm(8)(x.float()).bfloat16())
