"""Variants of the agent, each on a set, as one batched model: networks and losses.

The same mathematics as cmpolicy/agents/ac.py for R replicas at once, whose hyperparameters are
tensors (R,). tests/benchmarks/test_screening.py holds it against the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from networks import (
    FREQUENCIES,
    Weights,
    critic_output,
    embedded,
    initial_weights,
    policy_output,
)
from sets import ACTION_DIM, LATENT_STD, OBS_DIM, TANH_AT_BOUND, PaddedSets
from torch import Tensor

SIGMA_MIN, SIGMA_MAX, LEVELS = 0.002, 10.0, 11
EMBEDDING = 17


@dataclass(frozen=True)
class Variant:
    """What one replica does.

    Attributes:
        discount: γ.
        trace: λ of the critics' targets after the warm-up, 0 for one step, 1 for whole returns.
        warm_trace: λ in the warm-up.
        radius: of the guided move, in units of E‖∇Q‖ (`unit` "gradient") or of the spread of
            returns ("return").
        spread_radius: in place of `radius`, in units of the clone's own spread; 0 for not.
        return_temperature: of the clone's data, 0 for all alike.
        advantage_weight: β of the clone's weights.
        pessimism: 1 for the minimum over critics in targets, 0 for their mean.
        penalty: of ‖a' − μ'‖² in targets (ReBRAC's).
    """

    set: str
    seed: int = 0
    name: str = ""
    discount: float = 0.998
    trace: float = 0.0
    warm_trace: float = 1.0
    radius: float = 0.1
    spread_radius: float = 0.0
    unit: str = "gradient"
    return_temperature: float = 0.0
    advantage_weight: float = 0.0
    pessimism: float = 1.0
    penalty: float = 0.0


@dataclass(frozen=True)
class Shape:
    """What all replicas of a batch share."""

    critics: int = 2
    critic_layers: int = 3
    bins: int = 0  # of a cross-entropy critic (HL-Gauss, Farebrother et al. 2024); 0: squared
    batch: int = 256
    warm_up: float = 0.25
    ramp: float = 0.1


class Replicas:
    """R variants: their networks, as functions of weights, and their losses.

    Attributes:
        at, total_at, warm_at: updates done, of the whole training and of its warm-up, each ().
        scalars: of the last update, each (R,).
    """

    def __init__(
        self, variants: list[Variant], data: PaddedSets, total: int, shape: Shape, seed: int = 0
    ) -> None:
        self.variants, self.data, self.shape, self.device = variants, data, shape, data.device
        self.count, self.scalars = len(variants), dict[str, Tensor]()
        self.at = torch.zeros((), device=self.device)
        self.total_at, self.warm_at = torch.zeros_like(self.at), torch.zeros_like(self.at)
        self.set_length(total)
        self.set_hyperparameters()
        self.row = torch.tensor([data.names.index(v.set) for v in variants], device=self.device)
        self.rows, self.mask = data.rows[self.row], data.mask[self.row][:, None]
        self.dims = self.mask.sum(-1)
        self.latent_mean = data.latent_mean[self.row][:, None]
        self.latent_scale = data.latent_scale[self.row][:, None]
        returns = self.set_returns()
        self.make_networks(torch.Generator().manual_seed(seed))
        self.place_values(returns)
        self.target = copies(self.critic)
        self.frequencies = FREQUENCIES.to(self.device)
        self.levels, self.level_shares = (part.to(self.device) for part in intervals())

    def set_hyperparameters(self) -> None:
        """What variants say, each (R,)."""

        def column(value: Callable[[Variant], float]) -> Tensor:
            return torch.tensor([float(value(v)) for v in self.variants], device=self.device)

        self.discount, self.trace = column(lambda v: v.discount), column(lambda v: v.trace)
        self.warm_trace, self.radius = column(lambda v: v.warm_trace), column(lambda v: v.radius)
        self.spread_radius = column(lambda v: v.spread_radius)
        self.by_gradient = column(lambda v: v.unit == "gradient")
        self.beta = column(lambda v: v.advantage_weight)
        self.pessimism, self.penalty = column(lambda v: v.pessimism), column(lambda v: v.penalty)
        self.spread = torch.full((self.count,), 0.2, device=self.device)

    def set_returns(self) -> list[Tensor]:
        """Discounted returns, once for each set and discount; those of each replica's set."""
        kinds = sorted({(v.set, v.discount) for v in self.variants})
        self.returns = torch.stack([self.data.returns(*kind) for kind in kinds])
        kind = torch.tensor([kinds.index((v.set, v.discount)) for v in self.variants])
        own = [self.returns[k, :n] for k, n in zip(kind, self.rows.cpu(), strict=True)]
        self.unit = torch.stack([r.std(correction=0) for r in own])
        self.mean_value = torch.stack([r.mean() for r in own]) / self.unit
        self.kind = kind.to(self.device)
        return own

    def make_networks(self, generator: torch.Generator) -> None:
        """Clones, actors that start as they, and critics."""
        widths = [ACTION_DIM + EMBEDDING + OBS_DIM, 256, 256, ACTION_DIM]
        self.clone = initial_weights(self.count, widths, generator, self.device, norm=False)
        self.average_clone = copies(self.clone)
        self.actor, self.average_actor = copies(self.clone), copies(self.clone)
        # one input more than there are: products of a multiple of eight are faster
        hidden = [256] * self.shape.critic_layers
        widths = [OBS_DIM + ACTION_DIM + 1, *hidden, self.shape.bins or 1]
        members = self.count * self.shape.critics
        self.critic = initial_weights(members, widths, generator, self.device, norm=True)

    def set_length(self, total: int) -> None:
        """Let schedules end after `total` updates."""
        self.total, self.warm_up = total, int(self.shape.warm_up * total)
        self.total_at.fill_(float(total))
        self.warm_at.fill_(float(self.warm_up))

    def place_values(self, returns: list[Tensor]) -> None:
        """Let values begin where returns are; bins cover 1.85 times their range."""
        if not self.shape.bins:
            offset = self.mean_value.repeat_interleave(self.shape.critics)
            self.critic[-1].copy_(offset[:, None, None])
            return
        low = torch.stack([r.min() for r in returns]) / self.unit
        high = torch.stack([r.max() for r in returns]) / self.unit
        self.lowest, self.highest = low - 0.1 * (high - low), high + 0.75 * (high - low)
        self.width = (self.highest - self.lowest) / self.shape.bins
        steps = torch.arange(self.shape.bins, device=self.device) + 0.5
        centers = self.lowest[:, None] + self.width[:, None] * steps
        self.centers = centers.repeat_interleave(self.shape.critics, 0)[:, None]

    # Functions of the networks ----------------------------------------------------------------

    def consistency(self, weights: Weights, x: Tensor, sigma: Tensor, obs: Tensor) -> Tensor:
        """f(x, σ | s): (R, B, A), (R, B), (R, B, O) → (R, B, A)."""
        square = (sigma**2 + LATENT_STD**2)[..., None]
        c_skip = LATENT_STD**2 / ((sigma - SIGMA_MIN) ** 2 + LATENT_STD**2)[..., None]
        c_out = LATENT_STD * (sigma - SIGMA_MIN)[..., None] / square.sqrt()
        level = embedded(sigma.log() / 4, self.frequencies)
        raw = policy_output(weights, torch.cat((x * square.rsqrt(), level, obs), -1))
        return (c_skip * x + c_out * raw) * self.mask

    def one_call(self, weights: Weights, noise: Tensor, obs: Tensor) -> Tensor:
        """Actions in [−1, 1] of one call at σ_max."""
        sigma = torch.full(obs.shape[:2], SIGMA_MAX, device=self.device)
        x = self.consistency(weights, SIGMA_MAX * noise * self.mask, sigma, obs)
        latent = self.latent_mean + x * self.latent_scale
        return (latent.tanh() / TANH_AT_BOUND).clamp(-1, 1) * self.mask

    def encode(self, actions: Tensor) -> Tensor:
        """Actions → latents."""
        latent = (TANH_AT_BOUND * actions.clamp(-1, 1)).atanh()
        return (latent - self.latent_mean) / self.latent_scale * self.mask

    def logits(self, weights: Weights, obs: Tensor, actions: Tensor, compiled: bool) -> Tensor:
        """What the critics put out, (R·E, B, 1 or bins)."""
        nothing = obs.new_zeros(*obs.shape[:2], 1)
        x = torch.cat((obs, actions, nothing), -1).repeat_interleave(self.shape.critics, 0)
        return critic_output(weights, x, compiled=compiled)

    def q(self, weights: Weights, obs: Tensor, actions: Tensor, compiled: bool = True) -> Tensor:
        """Values in units of the spread of returns, (R, E, B)."""
        out = self.logits(weights, obs, actions, compiled)
        if self.shape.bins:
            out = (out.softmax(-1) * self.centers).sum(-1, keepdim=True)
        return out.view(self.count, self.shape.critics, -1)

    # Losses -----------------------------------------------------------------------------------

    def pick(self, column: Tensor, index: Tensor) -> Tensor:
        """Rows of each replica's set: (S, N, …), (R, B) → (R, B, …)."""
        return column[self.row[:, None], index]

    @torch.no_grad()
    def target_of(self, index: Tensor, warm: bool) -> Tensor:
        """λ-returns by sampling: n is geometric, and its n-step return the target, (R, B)."""
        data, trace = self.data, (self.warm_trace if warm else self.trace)[:, None]
        most = self.pick(data.to_end, index)
        uniform = torch.rand(index.shape, device=self.device).clamp_min(1e-9)
        geometric = 1 + torch.floor(uniform.log() / trace.clamp(1e-6, 0.999999).log())
        steps = torch.where(trace >= 1, most, torch.minimum(geometric, most.float()).long())
        last, whole = index + steps - 1, steps >= most
        factor = self.discount[:, None] ** steps
        here = self.returns[self.kind[:, None], index]
        beyond = self.returns[self.kind[:, None], (last + 1).clamp(max=data.length - 1)]
        returns = here - torch.where(whole, torch.zeros_like(beyond), factor * beyond)
        obs, terminal = self.pick(data.next_observations, last), self.pick(data.terminals, last)
        noise = torch.randn(*index.shape, ACTION_DIM, device=self.device)
        anchor = self.one_call(self.average_clone, noise, obs)
        actions = anchor if warm else self.one_call(self.average_actor, noise, obs)
        q, low = self.q(self.target, obs, actions), self.pessimism[:, None]
        value = low * q.amin(1) + (1 - low) * q.mean(1)
        value = value - self.penalty[:, None] * (actions - anchor).square().sum(-1)
        return returns / self.unit[:, None] + factor * (1 - terminal) * value

    def critic_loss(self, index: Tensor, warm: bool) -> Tensor:
        """Of the rows (R, B), summed over replicas and critics."""
        obs, actions = self.pick(self.data.observations, index), self.pick(self.data.actions, index)
        y = self.target_of(index, warm)
        if not self.shape.bins:
            error = (self.q(self.critic, obs, actions) - y[:, None]).square()
            self.scalars["critic_loss"] = error.detach().mean((1, 2))
            return error.mean(-1).sum()
        out = self.logits(self.critic, obs, actions, True)
        y = torch.minimum(torch.maximum(y, self.lowest[:, None]), self.highest[:, None])
        steps = torch.arange(self.shape.bins + 1, device=self.device)
        edges = self.lowest[:, None, None] + self.width[:, None, None] * steps
        cdf = torch.special.ndtr((edges - y[..., None]) / (0.75 * self.width[:, None, None]))
        shares = cdf.diff(dim=-1) / (cdf[..., -1:] - cdf[..., :1]).clamp_min(1e-6)
        shares = shares.repeat_interleave(self.shape.critics, 0)
        return -(shares * out.log_softmax(-1)).sum(-1).mean(-1).sum()

    @torch.no_grad()
    def advantage_weights(self, obs: Tensor, actions: Tensor, own: list[Tensor]) -> Tensor:
        """As `ConsistencyAC.advantage_weights`, (R, B)."""
        value = torch.stack([self.q(self.critic, obs, a).mean(1) for a in own]).mean(0)
        advantage = self.q(self.critic, obs, actions).mean(1) - value
        unit = advantage.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)
        weights = (self.beta[:, None] * advantage / unit).clamp(max=3.0).exp()
        return weights / weights.mean(1, keepdim=True)

    def clone_loss(self, obs: Tensor, actions: Tensor, weights: Tensor | float) -> Tensor:
        """iCT on ten intervals, summed over replicas."""
        x0 = self.encode(actions)
        uniform = torch.rand(obs.shape[:2], device=self.device)
        level = torch.searchsorted(self.level_shares, uniform).clamp_max(LEVELS - 2)
        low, high = self.levels[level], self.levels[level + 1]
        noise = torch.randn(*obs.shape[:2], ACTION_DIM, device=self.device) * self.mask
        with torch.no_grad():
            target = self.consistency(self.clone, x0 + low[..., None] * noise, low, obs)
        moved = self.consistency(self.clone, x0 + high[..., None] * noise, high, obs)
        c = 0.00054 * self.dims.sqrt()
        distance = ((moved - target).square().sum(-1) + c**2).sqrt() - c
        return (weights * distance / (high - low)).mean(1).sum()

    def actor_loss(self, obs: Tensor, noise: Tensor, anchor: Tensor) -> Tensor:
        """As `ConsistencyAC.actor_loss`, summed over replicas."""
        actions = self.one_call(self.actor, noise, obs)
        at = actions.detach().requires_grad_()
        fixed = [weight.detach() for weight in self.critic]
        q = self.q(fixed, obs, at).mean(1)
        slope = torch.autograd.grad(q.sum(), at)[0] * self.mask
        length = slope.norm(dim=-1).mean(1).clamp_min(1e-12)
        unit = torch.where(self.by_gradient > 0, length, torch.ones_like(length))
        own = self.spread_radius * self.spread
        radius = torch.where(self.spread_radius > 0, own, self.radius)
        strength = ((self.at - self.warm_at) / (self.shape.ramp * self.total_at)).clamp(0, 1)
        move = actions - anchor
        pull = (slope / unit[:, None, None] * actions).sum(-1)
        loss = move.square().sum(-1) / 2 - (radius * strength)[:, None] * pull
        self.scalars["move"] = move.detach().norm(dim=-1).mean(1)
        self.scalars["slope"], self.scalars["q"] = length, q.detach().mean(1)
        return (loss.mean(1) / radius.clamp_min(1e-3)).sum()


def copies(weights: Weights) -> Weights:
    """Detached copies."""
    return [weight.detach().clone() for weight in weights]


def intervals() -> tuple[Tensor, Tensor]:
    """iCT's noise levels, (LEVELS,), and how often the intervals up to each are drawn."""
    low, high = SIGMA_MIN ** (1 / 7), SIGMA_MAX ** (1 / 7)
    levels = (low + torch.arange(LEVELS) / (LEVELS - 1) * (high - low)) ** 7
    cdf = torch.special.ndtr((levels.log() + 1.1) / 2.0)
    return levels, cdf.diff().cumsum(0) / cdf.diff().sum()
