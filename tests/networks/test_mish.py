"""Mish in another form."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cmpolicy.networks.mish import Mish

X = torch.cat((torch.linspace(-120, 120, 2001), torch.tensor([0.0, -1e30, 1e30])))


def test_values_are_those_of_torch() -> None:
    torch.testing.assert_close(Mish()(X), F.mish(X.double()).float(), rtol=1e-6, atol=2e-6)
    assert Mish()(X.bfloat16()).dtype == torch.bfloat16


def test_derivatives_are_those_of_torch() -> None:
    x = X[:2001].clone().requires_grad_()
    exact = x.detach().double().requires_grad_()
    (derivative,) = torch.autograd.grad(Mish()(x).sum(), x)
    (expected,) = torch.autograd.grad(F.mish(exact).sum(), exact)
    torch.testing.assert_close(derivative, expected.float(), rtol=1e-5, atol=2e-6)
    assert torch.autograd.gradcheck(Mish(), torch.linspace(-4, 4, 9).double().requires_grad_())
