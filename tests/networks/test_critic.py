"""The ensemble of critics against critics computed one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cmpolicy.networks.critic import EnsembleCritic, EnsembleLayerNorm, EnsembleLinear
from cmpolicy.networks.mlp import ACTIVATIONS


def randomised(critic: EnsembleCritic) -> EnsembleCritic:
    """The critic with every parameter random, LayerNorm's gains and offsets too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in critic.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
    return critic


def member_by_hand(critic: EnsembleCritic, e: int, x: Tensor, activation: nn.Module) -> Tensor:
    """Member e as an ordinary MLP on its own slices of the weights."""
    for layer in critic.layers:
        if isinstance(layer, EnsembleLinear):
            x = functional.linear(x, layer.weight[e].T, layer.bias[e, 0])
        elif isinstance(layer, EnsembleLayerNorm):
            x = functional.layer_norm(x, x.shape[-1:], layer.weight[e, 0], layer.bias[e, 0])
        else:
            x = activation(x)
    return x[:, 0]


@pytest.mark.parametrize(
    ("ensemble", "layer_norm", "activation"),
    [(1, True, "relu"), (2, False, "mish"), (5, True, "silu")],
)
def test_members_equal_separate_networks(ensemble: int, layer_norm: bool, activation: str) -> None:
    critic = randomised(EnsembleCritic(4, 2, (16, 8), ensemble, activation, layer_norm))
    obs, actions = torch.randn(7, 4), torch.randn(7, 2)
    q, x = critic(obs, actions), torch.cat((obs, actions), dim=1)
    assert q.shape == (ensemble, 7)
    assert sum(isinstance(m, EnsembleLayerNorm) for m in critic.layers) == 2 * layer_norm
    for e in range(ensemble):
        expected = member_by_hand(critic, e, x, ACTIVATIONS[activation]())
        torch.testing.assert_close(q[e], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_gradient_of_one_member_touches_no_other(layer_norm: bool) -> None:
    critic = randomised(EnsembleCritic(4, 2, (16, 8), 3, layer_norm=layer_norm))
    critic(torch.randn(7, 4), torch.randn(7, 2))[0].sum().backward()
    for p in critic.parameters():
        assert p.grad is not None
        assert p.grad[0].abs().sum() > 0
        assert torch.equal(p.grad[1:], torch.zeros_like(p.grad[1:]))


@pytest.mark.parametrize("layer_norm", [True, False])
def test_one_member_alone_is_that_of_all(layer_norm: bool) -> None:
    critic = EnsembleCritic(3, 2, [8, 8], 3, layer_norm=layer_norm)
    obs, actions = torch.randn(4, 3), torch.randn(4, 2)
    for member in range(3):
        one = critic.one(torch.tensor(member), obs, actions)
        torch.testing.assert_close(one, critic(obs, actions)[member])
        ours, theirs = (
            torch.autograd.grad(q.sum(), list(critic.parameters()))
            for q in (one, critic(obs, actions)[member])
        )
        torch.testing.assert_close(ours, theirs)


def test_members_start_different() -> None:
    q = EnsembleCritic(4, 2, (16, 8), 4)(torch.randn(7, 4), torch.randn(7, 2))
    assert torch.pdist(q.detach()).min() > 1e-3


@pytest.mark.parametrize(("inputs", "outputs"), [(100, 400), (9, 1000)])
def test_the_initial_law_is_that_of_linear(inputs: int, outputs: int) -> None:
    ours, torchs = EnsembleLinear(2, inputs, outputs), nn.Linear(inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    for mine, theirs in ((ours.weight, torchs.weight), (ours.bias, torchs.bias)):
        assert mine.abs().max() <= bound
        assert mine.abs().max() > 0.95 * bound
        assert mine.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert mine.std().item() == pytest.approx(theirs.std().item(), rel=0.08)


def test_layer_norm_per_member_against_torch() -> None:
    norm = EnsembleLayerNorm(3, 5)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x = 4 + 3 * torch.randn(3, 7, 5)
    y = norm(x)
    for e in range(3):
        expected = functional.layer_norm(x[e], (5,), norm.weight[e, 0], norm.bias[e, 0])
        torch.testing.assert_close(y[e], expected, rtol=1e-5, atol=1e-5)


def test_observations_are_normalised_and_actions_count_in_half_their_range() -> None:
    mean, std = torch.tensor([1.0, -2.0, 30.0]), torch.tensor([0.5, 2.0, 100.0])
    center, half = torch.tensor([0.5, -7.0]), torch.tensor([0.1, 20.0])
    torch.manual_seed(0)
    plain = EnsembleCritic(3, 2, (8,))
    critic = EnsembleCritic(3, 2, (8,))
    own = {"obs_mean": mean, "obs_std": std, "action_center": center, "action_half_range": half}
    critic.load_state_dict({**plain.state_dict(), **own})
    obs, actions = torch.randn(6, 3), torch.randn(6, 2)
    torch.testing.assert_close(
        critic(mean + std * obs, center + half * actions), plain(obs, actions), rtol=1e-4, atol=1e-5
    )


def test_values_begin_at_their_mean() -> None:
    critic = randomised(EnsembleCritic(3, 2, (8,)))
    obs, actions = torch.randn(6, 3), torch.randn(6, 2)
    before = critic(obs, actions)
    critic.value_mean.fill_(40.0)
    torch.testing.assert_close(critic(obs, actions), before + 40.0)
    one = critic.one(torch.tensor(1), obs, actions)
    torch.testing.assert_close(one, before[1] + 40.0)


def test_the_gradient_with_respect_to_actions_is_each_samples_own() -> None:
    critic = randomised(EnsembleCritic(3, 2, (8,)))
    actions = torch.randn(6, 2, requires_grad=True)
    critic(torch.randn(6, 3), actions)[:, 2].sum().backward()
    assert actions.grad is not None
    assert actions.grad[2].abs().sum() > 0
    assert torch.equal(actions.grad[[0, 1, 3, 4, 5]], torch.zeros(5, 2))
