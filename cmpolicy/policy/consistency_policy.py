"""ConsistencyPolicy: an actor whose actions are samples of a consistency model."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cmpolicy.array_types import FloatArray
from cmpolicy.consistency.ema import ema_update
from cmpolicy.consistency.randomness import even_noise, normal
from cmpolicy.consistency.sampling import few_step_levels, find_mode
from cmpolicy.networks.mlp import ConditionalMLP
from cmpolicy.policy.action_bounds import LATENT_STD, ActionBound
from cmpolicy.policy.action_chunks import ChunkQueue, Window, tiled
from cmpolicy.policy.config import PolicyConfig, check_count
from cmpolicy.policy.few_step_sampler import FewStepSampler
from cmpolicy.policy.numpy_actions import numpy_actions
from cmpolicy.policy.observation_units import means_and_units
from cmpolicy.policy.policy_file import read_policy, write_policy

MODE_BANDWIDTH = 0.4  # in units of `ActionBound.spread`
MAX_DIM = 1_000_000


class ConsistencyPolicy(nn.Module):
    """π(a|s): a state-conditioned consistency model whose actions never leave their bounds.

    `policy(obs)` samples differentiably, `policy.loss(obs, action)` is the consistency loss,
    `policy.act(obs)` goes from NumPy to NumPy.

    With a `horizon` an action below is a chunk of so many, one after the other, with a `history`
    an observation the last ones, the oldest first; `act` alone takes and gives those of one step.

    Args:
        obs_dim, action_dim: numbers of entries, of one step; the attributes are those of all.
        action_low, action_high: bounds of the environment, a number or (action_dim,).
        config: architecture, loss and sampling; `PolicyConfig()` by default.
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
        **overrides: Any,
    ) -> None:
        super().__init__()
        self.config = config = dataclasses.replace(config or self.Config(), **overrides)
        self.window = config.window
        self.queue = ChunkQueue(self.window)
        self.obs_dim = obs_dim = check_count("obs_dim", obs_dim, MAX_DIM) * config.history
        self.action_dim = check_count("action_dim", action_dim, MAX_DIM) * config.horizon
        bounds = (tiled(end, action_dim, config.horizon) for end in (action_low, action_high))
        self.parameterization = config.PARAMETERIZATIONS[config.parameterization](
            LATENT_STD, config.sigma_min, config.sigma_max
        )
        grid = few_step_levels(config.steps, self.parameterization)
        self.levels = grid if config.levels is None else list(config.levels)
        self.consistency_loss = config.make_loss()
        self.bound = ActionBound(config.bound, self.action_dim, *bounds)
        self.network = ConditionalMLP(
            self.action_dim, obs_dim, config.hidden, config.activation, config.embedding
        )
        self.target_network: nn.Module | None = None
        if self.consistency_loss.needs_target_ema:
            self.target_network = copy.deepcopy(self.network).requires_grad_(False)
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
            observations: (N, obs_dim).
            actions: (N, action_dim), in the environment's units.

        Raises:
            ValueError: for other shapes, no rows, NaN or infinity.
        """
        observations, actions = torch.as_tensor(observations), torch.as_tensor(actions)
        rows = len(observations)
        self._check_shapes(rows, observations=observations, actions=actions)
        if not rows or not bool(observations.isfinite().all()):
            raise ValueError(f"need finite observations to measure, got NaN or inf in {rows} rows")
        self.bound.fit(actions)
        if self.config.normalize_obs:
            mean, unit = means_and_units(observations)
            self.obs_mean.copy_(mean)
            self.obs_std.copy_(unit)

    def _check_shapes(self, batch: int, **tensors: Tensor | None) -> None:
        """Raise ValueError for a shape that would broadcast to something else."""
        shapes = {"observations": (batch, self.obs_dim), "actions": (batch, self.action_dim)}
        for name, tensor in tensors.items():
            shape = shapes.get(name, (batch,))
            if tensor is not None and tensor.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")

    def encode(self, actions: Tensor) -> Tensor:
        """Actions in the environment's units → x₀ of the consistency model, (B, action_dim)."""
        return self.bound.encode(actions)

    def decode(self, x0: Tensor) -> Tensor:
        """x₀ of the consistency model → actions inside the environment's bounds."""
        return self.bound.decode(x0)

    def normalize(self, observations: Tensor) -> Tensor:
        """Observations as the network sees them, (B, obs_dim)."""
        return (observations.to(self.obs_mean.dtype) - self.obs_mean) / self.obs_std

    def f(
        self, x: Tensor, sigma: Tensor, condition: Tensor, network: nn.Module | None = None
    ) -> Tensor:
        """The consistency function f(x_σ, σ | s) in latent space.

        Args:
            x: (B, action_dim) noisy latents.
            sigma: () or (B,) noise levels.
            condition: (B, obs_dim) normalised observations.
            network: F, the online network if not given.
        """
        squash = self.bound.kind == "squash"
        x = x.tanh() if squash else x
        x0 = self.parameterization(network or self.network, x, sigma, condition)
        return x0.tanh() if squash else x0

    def sampler_at(self, levels: Sequence[float]) -> FewStepSampler:
        """A sampler at the given noise levels, decreasing."""
        embedding, squash = self.network.embedding, self.bound.kind == "squash"
        return FewStepSampler(self.parameterization, levels, embedding, self.obs_mean, squash)

    def forward(
        self,
        observations: Tensor,
        *,
        noise: Tensor | None = None,
        levels: Sequence[float] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Sample actions, differentiably: (B, obs_dim) → (B, action_dim) inside the bounds.

        Args:
            noise: z of the first step, (B, action_dim), or of all, (B, steps, action_dim); drawn
                where it is not given.
            levels: noise levels, decreasing; those of the policy if not given.
        """
        if observations.ndim != 2 or observations.shape[1] != self.obs_dim:
            raise ValueError(
                f"observations must have shape (batch, {self.obs_dim}), "
                f"got {tuple(observations.shape)}"
            )
        sampler = self.sampler if levels is None else self.sampler_at(levels)
        condition = self.normalize(observations)
        shape = (observations.shape[0], self.action_dim)
        if noise is None:
            noise = normal(shape, condition, generator)
        elif noise.shape not in (shape, whole := (shape[0], sampler.steps, shape[1])):
            raise ValueError(f"noise must have shape {shape} or {whole}, got {tuple(noise.shape)}")
        return self.decode(sampler.sample(self.network, noise, condition, generator))

    def mode(
        self,
        observations: Tensor,
        samples: int,
        *,
        levels: Sequence[float] | None = None,
    ) -> Tensor:
        """Where `samples` actions lie closest together: (B, obs_dim) → (B, action_dim).

        A single sample has the noise of the behaviour in it, and a mean lies between modes. All
        observations share the same evenly spread noise, so that a mode depends on the observation
        alone, and smoothly. Where samples are far apart is a matter of the data, see
        `action_spread`.

        Raises:
            ValueError: for fewer than one sample.
        """
        if samples < 1:
            raise ValueError(f"the mode needs at least one sample, got {samples}")
        steps = self.sampler.steps if levels is None else len(levels)
        noise = even_noise(samples, steps, self.action_dim).to(self.obs_mean)
        repeated = observations.repeat_interleave(samples, dim=0)
        drawn = self(repeated, noise=noise.repeat(observations.shape[0], 1, 1), levels=levels)
        unit = MODE_BANDWIDTH * self.bound.spread
        found = find_mode(drawn.view(-1, samples, self.action_dim) / unit) * unit
        return found.clamp(self.bound.low, self.bound.high)

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
            observations: (B, obs_dim).
            actions: (B, action_dim), in the environment's units.
            progress: k/K over the whole training, for the curriculum of levels; 1 is its end.
            weight: (B,), multiplies each sample's loss.
        """
        if self.obs_mean.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"train in float32 or float64, not {self.obs_mean.dtype}: call policy.float(), "
                "train, and convert the policy afterwards"
            )
        self._check_shapes(
            len(observations), observations=observations, actions=actions, weight=weight
        )
        condition = self.normalize(observations)
        progress = torch.as_tensor(progress, dtype=condition.dtype, device=condition.device)
        per_sample = self.consistency_loss(
            lambda x, sigma: self.f(x, sigma, condition),
            lambda x, sigma: self.f(x, sigma, condition, self.target_network),
            self.encode(actions.to(condition.dtype)),
            self.parameterization,
            progress,
            generator,
        )
        return per_sample.mean() if weight is None else (weight * per_sample).mean()

    def update_target(self, progress: Tensor | float = 1.0) -> None:
        """Move the target network of CT towards the online one; nothing to do for iCT."""
        if self.target_network is not None:
            done = torch.as_tensor(progress, device=self.obs_mean.device)
            ema_update(self.target_network, self.network, self.consistency_loss.target_decay(done))

    @torch.inference_mode()
    def act(
        self,
        observation: npt.ArrayLike,
        *,
        episode_start: npt.ArrayLike | None = None,
        mode_of: int = 1,
        levels: Sequence[float] | None = None,
        generator: torch.Generator | None = None,
    ) -> FloatArray:
        """Actions for an environment, or for one step of N that are stepped together.

        (obs_dim,) → (action_dim,), or (N, obs_dim) → (N, action_dim), always float32. They are
        samples, or with `mode_of` the mode of so many an observation, which draws nothing. Large
        batches are computed in parts.

        Args:
            episode_start: () or (N,) bool, where an episode begins with this observation: a policy
                with a horizon or a history remembers what it planned and saw; see also `reset`.

        Raises:
            ValueError: for another shape, NaN or infinity, or mode_of < 1.
        """
        if mode_of < 1:
            raise ValueError(f"mode_of must be at least 1, got {mode_of}")

        def sample(part: Tensor) -> Tensor:
            if mode_of > 1:
                return self.mode(part, mode_of, levels=levels)
            return self(part, levels=levels, generator=generator)  # type: ignore[no-any-return]

        plan = functools.partial(numpy_actions, self, sample, mode_of)
        if self.window == Window():
            return plan(observation)
        starts = None if episode_start is None else np.asarray(episode_start, np.bool_)
        return self.queue.act(plan, np.asarray(observation, np.float32), starts)

    def reset(self) -> None:
        """Begin new episodes in all environments of `act`."""
        self.queue.reset()

    def save(self, path: str | Path) -> None:
        """Write weights, normalisers and configuration into one safetensors file, with a checksum.

        Folders of `path` that do not exist are made.
        """
        arguments = {
            "obs_dim": self.obs_dim // self.window.history,
            "action_dim": (one := self.action_dim // self.window.horizon),
            "action_low": self.bound.given_low[:one].tolist(),
            "action_high": self.bound.given_high[:one].tolist(),
            **dataclasses.asdict(self.config),
        }
        write_policy(Path(path), self.state_dict(), arguments)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> ConsistencyPolicy:
        """Read a file that `save` wrote. No pickled code is executed.

        Raises:
            InputError: if the file is missing, damaged, or not a policy.
        """
        return read_policy(Path(path), cls).to(device)
