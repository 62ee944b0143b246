"""Products in bfloat16: which are rounded, and that nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cmpolicy.networks.critic import EnsembleCritic
from cmpolicy.networks.linear import SMALLEST, Linear, bfloat16_products
from cmpolicy.networks.mlp import ConditionalMLP


def is_bfloat16(x: Tensor) -> bool:
    """Whether rounding to bfloat16 changes nothing."""
    return torch.equal(x, x.bfloat16().float())


def test_a_large_product_is_that_of_rounded_factors_and_the_bias_is_not_rounded() -> None:
    layer, x = Linear(SMALLEST, SMALLEST), torch.randn(8, SMALLEST)
    bias = layer.bias.detach().clone()
    with bfloat16_products():
        y = layer(x)
    with torch.no_grad():
        layer.bias.zero_()
    with bfloat16_products():
        assert is_bfloat16(layer(x))
    with torch.no_grad():
        layer.bias.copy_(bias)
    product = x.bfloat16().float() @ layer.weight.bfloat16().float().T
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, product + layer.bias, rtol=1e-2, atol=1e-2)
    assert not torch.equal(y, layer(x))


def test_outside_and_in_small_products_nothing_is_rounded() -> None:
    reference, x = nn.Linear(SMALLEST - 1, SMALLEST), torch.randn(8, SMALLEST - 1)
    layer = Linear(SMALLEST - 1, SMALLEST)
    layer.load_state_dict(reference.state_dict())
    with bfloat16_products():
        assert torch.equal(layer(x), reference(x))
    with bfloat16_products(False):
        assert torch.equal(layer(x), reference(x))


def test_the_former_state_comes_back_after_an_error() -> None:
    layer, x = Linear(SMALLEST, SMALLEST), torch.randn(8, SMALLEST)
    before = layer(x)
    with pytest.raises(KeyError), bfloat16_products():
        raise KeyError
    assert torch.equal(layer(x), before)


def test_float64_is_never_rounded() -> None:
    layer, x = Linear(SMALLEST, SMALLEST).double(), torch.randn(8, SMALLEST).double()
    with bfloat16_products():
        assert layer(x).dtype == torch.float64


@pytest.mark.parametrize("name", ["policy", "critic"])
def test_networks_and_their_float32_gradients_stay_near(name: str) -> None:
    x, level, actions = torch.randn(64, 3), torch.randn(64), torch.randn(64, 2)
    network: nn.Module
    if name == "policy":
        network = ConditionalMLP(3, 2, [SMALLEST, SMALLEST])
        inputs = (x, level, actions)
    else:
        network = EnsembleCritic(3, 2, [SMALLEST, SMALLEST])
        inputs = (x, actions)  # type: ignore[assignment]
    exact = torch.autograd.grad(network(*inputs).square().mean(), list(network.parameters()))
    with bfloat16_products():
        rounded = torch.autograd.grad(network(*inputs).square().mean(), list(network.parameters()))
    assert any(not torch.equal(a, b) for a, b in zip(exact, rounded, strict=True))
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == torch.float32
        assert float((a - b).norm()) < 0.03 * float(a.norm()) + 1e-6
