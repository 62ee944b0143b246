"""State-action values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cmpolicy.networks.linear import uses_bfloat16
from cmpolicy.networks.mlp import ACTIVATIONS


class EnsembleLinear(nn.Module):
    """E linear layers as one batched product: (E, B, in) → (E, B, out), nn.Linear's initial law."""

    def __init__(self, ensemble: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(ensemble, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(ensemble, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.shape[-1] == 1:  # elementwise: as a product it takes five times that
            return (x * self.weight.mT).sum(-1, keepdim=True) + self.bias
        if uses_bfloat16(x, self.weight):
            return torch.bmm(x.bfloat16(), self.weight.bfloat16()).float() + self.bias
        return torch.baddbmm(self.bias, x, self.weight)


class EnsembleLayerNorm(nn.Module):
    """Layer normalisation with its own gain and offset for each member: (E, B, n) → (E, B, n)."""

    one: Tensor
    zero: Tensor

    def __init__(self, ensemble: int, features: int) -> None:
        super().__init__()
        # torch's kernel for a CPU is vectorised only where it is given a gain and an offset
        self.register_buffer("one", torch.ones(features), persistent=False)
        self.register_buffer("zero", torch.zeros(features), persistent=False)
        self.weight = nn.Parameter(torch.ones(ensemble, 1, features))
        self.bias = nn.Parameter(torch.zeros(ensemble, 1, features))

    def forward(self, x: Tensor) -> Tensor:
        normal = F.layer_norm(x, x.shape[-1:], self.one, self.zero)
        return torch.addcmul(self.bias, normal, self.weight)


class EnsembleCritic(nn.Module):
    """E independent critics Q_e(s, a).

    Args:
        ensemble: number of members; 2 are the twin critics of TD3 (Fujimoto et al. 2018).
        layer_norm: normalise each hidden layer, which bounds how far Q can extrapolate
            (Ball et al. 2023, §4.2).

    Attributes:
        obs_mean, obs_std: observations are standardised by them, (obs_dim,); 0 and 1 unless an
            agent sets them.
        action_center, action_half_range: actions enter in units of half their range, as in the
            policy, each (action_dim,): 0 and 1 unless an agent sets them.
        value_mean: added to every value, (): where values begin, 0 unless an agent sets it.
    """

    obs_mean: Tensor
    obs_std: Tensor
    action_center: Tensor
    action_half_range: Tensor
    value_mean: Tensor

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256, 256),
        ensemble: int = 2,
        activation: str = "silu",
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.register_buffer("action_center", torch.zeros(action_dim))
        self.register_buffer("action_half_range", torch.ones(action_dim))
        self.register_buffer("value_mean", torch.zeros(()))
        widths = [obs_dim + action_dim, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers.append(EnsembleLinear(ensemble, inputs, outputs))
            if layer_norm:
                layers.append(EnsembleLayerNorm(ensemble, outputs))
            layers.append(ACTIVATIONS[activation]())
        self.layers = nn.Sequential(*layers, EnsembleLinear(ensemble, widths[-1], 1))

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """(B, obs_dim), (B, action_dim), or a member's own (E, B, action_dim) → (E, B)"""
        obs = (observations - self.obs_mean) / self.obs_std
        first = self.layers[0]
        assert isinstance(first, EnsembleLinear)
        own = (actions - self.action_center) / self.action_half_range
        x = torch.cat((obs.expand(*own.shape[:-1], -1), own), dim=-1)
        x = x.expand(len(first.weight), -1, -1)
        return self.layers(x).squeeze(-1) + self.value_mean  # type: ignore[no-any-return]

    def one(self, member: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_e(s, a) of one member e, () int64: (B, obs_dim), (B, action_dim) → (B,)"""
        index = member.view(1)
        own = {name: p.index_select(0, index) for name, p in self.named_parameters()}
        return functional_call(self, own, (observations, actions)).squeeze(0)  # type: ignore[no-any-return]
