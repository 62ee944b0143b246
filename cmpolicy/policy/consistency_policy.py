"""ConsistencyPolicy: an actor whose actions are samples of a consistency model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cmpolicy.array_types import FloatArray
from cmpolicy.consistency.ema import ema_update
from cmpolicy.consistency.randomness import even_noise, normal
from cmpolicy.consistency.sampling import few_step_levels, find_mode
from cmpolicy.policy.acting_policy import ActingPolicy
from cmpolicy.policy.action_bounds import LATENT_STD, ActionBound
from cmpolicy.policy.action_chunks import ChunkQueue, tiled
from cmpolicy.policy.architecture import name_of, width_of
from cmpolicy.policy.config import PolicyConfig, check_count
from cmpolicy.policy.few_step_sampler import FewStepSampler
from cmpolicy.policy.observations import mean_and_unit

MODE_BANDWIDTH = 0.4  # in units of `ActionBound.spread`
MAX_DIM, MAX_MODE_OF = 1_000_000, 4096


class ConsistencyPolicy(ActingPolicy):
    """π(a|s): a state-conditioned consistency model whose actions never leave their bounds.

    `policy(obs)` samples differentiably, `policy.loss(obs, action)` is the consistency loss,
    `policy.act(obs)` gives NumPy actions for an environment. Observations may have any leading
    shape (..., obs_dim).

    With a `horizon` an action below is a chunk of so many, one after the other, with a `history`
    an observation the last ones, the oldest first; `act` alone takes and gives those of one step.

    Args:
        obs_dim, action_dim: numbers of entries, of one step; the attributes are those of all.
        action_low, action_high: bounds of the environment, a number or (action_dim,).
        config: architecture, loss and sampling; `PolicyConfig()` by default.
        mode_of: how it acts, see `act`: by the mode of so many samples, or by one.
        network, encoder: a registered name or a module of your own, see `architecture.NETWORKS`
            and `ENCODERS` for what it maps to what. An encoder is trained with the network.
        **overrides: fields of PolicyConfig, e.g. ``bound="clamp", steps=2``.

    Raises:
        ValueError: for an unknown name or a value out of range.
    """

    Config: ClassVar[type[PolicyConfig]] = PolicyConfig
    obs_mean: Tensor
    obs_std: Tensor

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        action_low: float | Sequence[float] = -1.0,
        action_high: float | Sequence[float] = 1.0,
        config: PolicyConfig | None = None,
        *,
        mode_of: int = 1,
        network: str | nn.Module | None = None,
        encoder: str | nn.Module | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__()
        for kind, given in (("network", network), ("encoder", encoder)):
            if given is not None:
                overrides[kind] = name_of(kind, given) if isinstance(given, nn.Module) else given
        self.config = config = dataclasses.replace(config or self.Config(), **overrides)
        self.obs_dim = obs_dim = check_count("obs_dim", obs_dim, MAX_DIM) * config.history
        one = check_count("action_dim", action_dim, MAX_DIM)
        bounds = [tiled(end, one, config.horizon) for end in (action_low, action_high)]
        self.action_dim = action_dim = one * config.horizon
        self.queue = ChunkQueue(config.window)
        self.mode_of = check_count("mode_of", mode_of, MAX_MODE_OF)
        self.parameterization = config.PARAMETERIZATIONS[config.parameterization](
            LATENT_STD, config.sigma_min, config.sigma_max
        )
        grid = few_step_levels(config.steps, self.parameterization)
        self.levels = grid if config.levels is None else list(config.levels)
        self.consistency_loss = config.make_loss()
        self.bound = ActionBound(config.bound, action_dim, *bounds)
        self.encoder = encoder if isinstance(encoder, nn.Module) else config.make_encoder(obs_dim)
        width = obs_dim if config.encoder is None else width_of(self.encoder, obs_dim)
        made = network if isinstance(network, nn.Module) else config.make_network(action_dim, width)
        self.network = made
        self.target_network: nn.Module | None = None
        if self.consistency_loss.needs_target_ema:
            self.target_network = copy.deepcopy(made).requires_grad_(False)
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.sampler = self.sampler_at(self.levels)

    @torch.no_grad()
    def fit_normalizers(
        self, observations: Tensor | FloatArray, actions: Tensor | FloatArray
    ) -> None:
        """Measure the statistics of the data, in float64; they are saved with the weights.

        An observation entry that is constant but for rounding has its own size as its unit.

        Args:
            observations: (N, obs_dim), or fewer rows of large ones.
            actions: (N, action_dim), in the environment's units.

        Raises:
            ValueError: for other shapes, no rows, NaN or infinity.
        """
        observations, actions = torch.as_tensor(observations), torch.as_tensor(actions)
        self._check_shapes((len(observations),), observations=observations, actions=actions)
        mean, unit = mean_and_unit(observations)
        mean, unit = getattr(self.encoder, "units", lambda *measured: measured)(mean, unit)
        self.bound.fit(actions)
        if self.config.normalize_obs:
            self.obs_mean.copy_(mean)
            self.obs_std.copy_(unit)

    def _check_shapes(self, leading: Sequence[int], **tensors: Tensor | None) -> None:
        """Raise ValueError for a shape that would broadcast to something else."""
        sizes = {"observations": (self.obs_dim,), "actions": (self.action_dim,)}
        for name, tensor in tensors.items():
            shape = (*leading, *sizes.get(name, ()))
            if tensor is not None and tensor.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")

    def encode(self, actions: Tensor) -> Tensor:
        """Actions in the environment's units → x₀ of the consistency model, (B, action_dim)."""
        return self.bound.encode(actions)

    def decode(self, x0: Tensor) -> Tensor:
        """x₀ of the consistency model → actions inside the environment's bounds."""
        return self.bound.decode(x0)

    def normalize(self, observations: Tensor) -> Tensor:
        """Observations in units of the data's spread, (..., obs_dim)."""
        return (observations.to(self.obs_mean.dtype) - self.obs_mean) / self.obs_std

    def condition(self, observations: Tensor) -> Tensor:
        """What the network sees of observations: (B, obs_dim) → (B, features)."""
        normalized = self.normalize(observations)
        return normalized if self.config.encoder is None else self.encoder(normalized)

    def f(
        self, x: Tensor, sigma: Tensor, condition: Tensor, network: nn.Module | None = None
    ) -> Tensor:
        """The consistency function f(x_σ, σ | s) in latent space.

        Args:
            x: (B, action_dim) noisy latents.
            sigma: () or (B,) noise levels.
            condition: of the observations, see `condition`.
            network: F, the online network if not given.
        """
        squash = self.bound.kind == "squash"
        x = x.tanh() if squash else x
        x0 = self.parameterization(network or self.network, x, sigma, condition)
        return x0.tanh() if squash else x0

    def sampler_at(self, levels: Sequence[float]) -> FewStepSampler:
        """A sampler at the given noise levels, decreasing."""
        embedding = getattr(self.network, "embedding", None)
        squash = self.bound.kind == "squash"
        return FewStepSampler(self.parameterization, levels, embedding, self.obs_mean, squash)

    def forward(
        self,
        observation: Tensor,
        *,
        noise: Tensor | None = None,
        levels: Sequence[float] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Sample actions, differentiably: (..., obs_dim) → (..., action_dim) inside the bounds.

        Args:
            observation: named as TorchRL's environments name it.
            noise: z of the first step, (..., action_dim), or of all, (..., steps, action_dim);
                drawn where it is not given.
            levels: noise levels, decreasing; those of the policy if not given.
        """
        rows, leading = self._rows(observation), observation.shape[:-1]
        sampler = self.sampler if levels is None else self.sampler_at(levels)
        condition = self.condition(rows)
        one = (self.action_dim,)
        shapes = (*leading, *one), (*leading, sampler.steps, *one)
        if noise is None:
            noise = normal((rows.shape[0], *one), condition, generator)
        elif noise.shape not in shapes:
            raise ValueError(
                f"noise must have shape {shapes[0]} or {shapes[1]}, got {tuple(noise.shape)}"
            )
        elif len(leading) != 1:
            noise = noise.reshape(-1, *noise.shape[len(leading) :])
        actions = self.decode(sampler.sample(self.network, noise, condition, generator))
        return actions if len(leading) == 1 else actions.reshape(shapes[0])

    def mode(
        self,
        observations: Tensor,
        samples: int,
        *,
        levels: Sequence[float] | None = None,
    ) -> Tensor:
        """Where `samples` actions lie closest together: (..., obs_dim) → (..., action_dim).

        A single sample has the noise of the behaviour in it, and a mean lies between modes. All
        observations share the same evenly spread noise, so that a mode depends on the observation
        alone, and smoothly. Where samples are far apart is a matter of the data, see
        `action_spread`.

        Raises:
            ValueError: for fewer than one sample.
        """
        if samples < 1:
            raise ValueError(f"the mode needs at least one sample, got {samples}")
        rows, leading = self._rows(observations), observations.shape[:-1]
        steps = self.sampler.steps if levels is None else len(levels)
        noise = even_noise(samples, steps, self.action_dim).to(self.obs_mean)
        repeated = rows.repeat_interleave(samples, dim=0)
        drawn = self(repeated, noise=noise.repeat(rows.shape[0], 1, 1), levels=levels)
        unit = MODE_BANDWIDTH * self.bound.spread
        found = find_mode(drawn.view(-1, samples, self.action_dim) / unit) * unit
        actions = found.clamp(self.bound.low, self.bound.high)
        return actions if len(leading) == 1 else actions.reshape(*leading, self.action_dim)

    def loss(
        self,
        observations: Tensor,
        actions: Tensor,
        progress: Tensor | float = 1.0,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The consistency loss of a batch, a scalar.

        Args:
            observations: (..., obs_dim).
            actions: (..., action_dim), in the environment's units.
            progress: k/K over the whole training, for the curriculum of levels; 1 is its end.
            weight: (...), multiplies each sample's loss.
        """
        if self.obs_mean.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"train in float32 or float64, not {self.obs_mean.dtype}: call policy.float(), "
                "train, and convert the policy afterwards"
            )
        self._check_shapes(
            observations.shape[:-1], observations=observations, actions=actions, weight=weight
        )
        rows = self._rows(observations)
        condition = self.condition(getattr(self.encoder, "augment", nn.Identity())(rows))
        actions = actions.to(condition.dtype).reshape(-1, self.action_dim)
        progress = torch.as_tensor(progress, dtype=condition.dtype, device=condition.device)
        per_sample = self.consistency_loss(
            lambda x, sigma: self.f(x, sigma, condition),
            lambda x, sigma: self.f(x, sigma, condition, self.target_network),
            self.encode(actions),
            self.parameterization,
            progress,
            generator,
        )
        return per_sample.mean() if weight is None else (weight.reshape(-1) * per_sample).mean()

    def update_target(self, progress: Tensor | float = 1.0) -> None:
        """Move the target network of CT towards the online one; nothing to do for iCT."""
        if self.target_network is not None:
            done = torch.as_tensor(progress, device=self.obs_mean.device)
            ema_update(self.target_network, self.network, self.consistency_loss.target_decay(done))
