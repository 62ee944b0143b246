"""The denoising MLP."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cmpolicy.networks.embeddings import EMBEDDINGS
from cmpolicy.networks.mlp import ConditionalMLP


@pytest.mark.parametrize(
    ("activation", "embedding", "condition_dim", "dtype"),
    [
        ("relu", "fourier", 0, torch.float32),
        ("silu", "sinusoidal", 5, torch.float64),
        ("mish", "fourier", 5, torch.float64),
    ],
)
def test_shape_dtype_and_gradients(
    activation: str, embedding: str, condition_dim: int, dtype: torch.dtype
) -> None:
    network = ConditionalMLP(3, condition_dim, (16, 8), activation, embedding).to(dtype)
    condition = torch.randn(4, 5, dtype=dtype) if condition_dim else None
    out = network(torch.randn(4, 3, dtype=dtype), torch.randn(4, dtype=dtype), condition)
    assert out.shape == (4, 3)
    assert out.dtype == dtype
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_against_numpy() -> None:
    network = ConditionalMLP(2, 3, (7, 5), "relu", "fourier").double()
    x, c, s = torch.randn(4, 2).double(), torch.randn(4).double(), torch.randn(4, 3).double()
    omega = 0.5 * 16 ** (np.arange(8) / 7)
    phase = c.numpy()[:, None] * omega
    h = np.concatenate(
        (x.numpy(), c.numpy()[:, None], np.sin(phase), np.cos(phase), s.numpy()), axis=1
    )
    linears = [m for m in network.layers if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linears] == [7, 5, 2]
    for i, linear in enumerate(linears):
        h = h @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        h = np.maximum(h, 0) if i < 2 else h
    np.testing.assert_allclose(network(x, c, s).detach().numpy(), h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changed", ["x", "c_noise", "condition"])
def test_every_input_matters(changed: str) -> None:
    network = ConditionalMLP(2, 3, (16,))
    inputs = {"x": torch.zeros(1, 2), "c_noise": torch.zeros(1), "condition": torch.zeros(1, 3)}
    before = network(*inputs.values())
    inputs[changed] = inputs[changed] + 1
    assert (network(*inputs.values()) - before).abs().max() > 1e-3


def test_samples_do_not_see_each_other() -> None:
    network = ConditionalMLP(2, 3, (16,))
    x, c, s = torch.randn(6, 2), torch.randn(6), torch.randn(6, 3)
    whole = network(x, c, s)
    for i in range(6):
        torch.testing.assert_close(network(x[i : i + 1], c[i : i + 1], s[i : i + 1])[0], whole[i])


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_training_mode_changes_nothing(embedding: str) -> None:
    """Trap: dropout masks must be shared between online and target. Here there is no dropout."""
    network = ConditionalMLP(2, 3, (16,), embedding=embedding)
    inputs = torch.randn(4, 2), torch.randn(4), torch.randn(4, 3)
    first = network.train()(*inputs)
    assert torch.equal(first, network(*inputs))
    assert torch.equal(first, network.eval()(*inputs))
