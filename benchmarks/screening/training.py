"""The training of replicas: optimisers, one update of everything, CUDA graphs."""

from __future__ import annotations

import math

import torch
from networks import Weights
from sets import ACTION_DIM, PaddedSets
from torch import Tensor
from variants import Replicas, Shape, Variant

RATES = {"clone": 1e-3, "actor": 3e-4, "critic": 3e-4}


class Training(Replicas):
    """R variants that `train` moves together.

    Attributes:
        step: updates done.
    """

    def __init__(
        self, variants: list[Variant], data: PaddedSets, total: int, shape: Shape, seed: int = 0
    ) -> None:
        super().__init__(variants, data, total, shape, seed)
        self.step = 0
        self.weighs = any(v.advantage_weight > 0 for v in variants)
        self.shares = None
        if any(v.return_temperature > 0 for v in variants):
            shares = [data.shares(v.set, v.return_temperature) for v in variants]
            self.shares = torch.stack(shares)
        self.optimizers = {
            "clone": self.adam(self.clone, RATES["clone"], weight_decay=2.5),
            "actor": self.adam(self.actor, RATES["actor"]),
            "critic": self.adam(self.critic, RATES["critic"]),
        }
        self.graphs: dict[bool, torch.cuda.CUDAGraph] = {}
        self.eager_updates = {True: 0, False: 0}

    def adam(self, weights: Weights, rate: float, weight_decay: float = 0.0) -> torch.optim.AdamW:
        """AdamW; `weight_decay` is that of the whole training."""
        for weight in weights:
            weight.requires_grad_()
        cuda = self.device == "cuda"
        lr: Tensor | float = torch.tensor(rate, device=self.device) if cuda else rate
        decay = weight_decay / (rate * self.total * 0.505)
        return torch.optim.AdamW(weights, lr=lr, weight_decay=decay, fused=True, capturable=cuda)

    def uniform_index(self) -> Tensor:
        """(R, B) int64."""
        uniform = torch.rand(self.count, self.shape.batch, device=self.device)
        return (uniform * self.rows[:, None]).long()

    def update(self, warm: bool) -> None:
        """One update of everything; in the warm-up of critics and clones alone."""
        self.minimize("critic", self.critic, self.critic_loss(self.uniform_index(), warm))
        torch._foreach_lerp_(self.target, [w.detach() for w in self.critic], 0.005)
        index = self.imitated_index()
        obs, actions = self.pick(self.data.observations, index), self.pick(self.data.actions, index)
        noise = [torch.randn(*index.shape, ACTION_DIM, device=self.device) for _ in range(2)]
        with torch.no_grad():
            own = [self.one_call(self.average_clone, z, obs) for z in noise]
            spread = (own[0] - own[1]).norm(dim=-1).mean(1) / 2
            self.spread.lerp_(spread, 0.01)
            self.scalars["spread"] = spread
        plain = warm or not self.weighs
        weights = 1.0 if plain else self.advantage_weights(obs, actions, own)
        self.minimize("clone", self.clone, self.clone_loss(obs, actions, weights))
        decay = torch.clamp((1 + self.at) / (10 + self.at), max=0.999)
        for average, weight in zip(self.average_clone, self.clone, strict=True):
            average.lerp_(weight.detach(), 1 - decay)
        if warm:
            return
        self.minimize("actor", self.actor, self.actor_loss(obs, noise[0], own[0]))
        for average, weight in zip(self.average_actor, self.actor, strict=True):
            average.lerp_(weight.detach(), 1 - decay)

    def imitated_index(self) -> Tensor:
        """(R, B) int64, drawn by the weights of returns where there are any."""
        if self.shares is None:
            return self.uniform_index()
        shape = (self.count, self.shape.batch)
        uniform = torch.rand(shape, dtype=torch.float64, device=self.device)
        drawn = torch.searchsorted(self.shares, uniform, right=True)
        return torch.minimum(drawn, self.rows[:, None] - 1)

    def minimize(self, name: str, weights: Weights, loss: Tensor) -> None:
        """One step of AdamW, at a rate that falls to a hundredth by a cosine."""
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        cosine = (1 + torch.cos(math.pi * self.at / self.total_at)) / 2
        rate = RATES[name] * cosine.clamp_min(0.01)
        for group in self.optimizers[name].param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(rate)
            else:
                group["lr"] = float(rate)
        self.optimizers[name].step()

    def train(self, updates: int) -> None:
        """So many updates; on a GPU as CUDA graphs, one for the warm-up and one for the rest."""
        for _ in range(updates):
            if self.step == self.warm_up:  # actors start as their clones
                for own, other in ((self.actor, self.clone),
                                   (self.average_actor, self.average_clone)):  # fmt: skip
                    with torch.no_grad():
                        torch._foreach_copy_(own, [w.detach() for w in other])
            self.one_update(self.step < self.warm_up)
            self.step += 1

    def one_update(self, warm: bool) -> None:
        """An eager update, or a graph's replay once three eager ones have allocated memory."""
        if self.device == "cpu":
            self.update(warm)
            self.at += 1
        elif warm in self.graphs:
            self.graphs[warm].replay()
        elif self.eager_updates[warm] < 3:
            self.eager_updates[warm] += 1
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.update(warm)
                self.at += 1
            torch.cuda.current_stream().wait_stream(stream)
        else:
            self.graphs[warm] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graphs[warm]):
                self.update(warm)
                self.at += 1
            self.graphs[warm].replay()
