"""ConsistencyPolicy: a network, the consistency core and a bound on actions."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cmpolicy.consistency.ema import ema_update
from cmpolicy.consistency.losses import LOSSES
from cmpolicy.consistency.parameterization import PARAMETERIZATIONS
from cmpolicy.consistency.sampling import check_levels, few_step_levels, multistep
from cmpolicy.errors import InputError
from cmpolicy.networks.mlp import ConditionalMLP

FORMAT = "cmpolicy.policy.v1"
BOUNDS = ("tanh", "squash", "clamp")
ATANH_LIMIT = 0.999  # |a| beyond this is moved here: atanh is infinite at the bound itself
LATENT_STD = 0.5  # σ_d of the latent space, the value for which the literature's levels are tuned


class ConsistencyPolicy(nn.Module):
    """π(a|s): a state-conditioned consistency model whose actions never leave their bounds.

    `policy(obs)` samples differentiably, `policy.loss(obs, action)` is the consistency loss,
    `policy.act(obs)` goes from NumPy to NumPy.

    Actions are scaled to [−1, 1] per dimension. `bound` says how they stay there:

    - ``"tanh"``: the model lives in u = atanh(a), standardised per dimension to σ_d = 0.5, and
      a = tanh(u). f(u, ε) = u holds exactly.
    - ``"clamp"``: the model lives in action space and its samples are clamped, as Ding & Jin's
      published code runs by default.
    - ``"squash"``: tanh on the noisy input and on the output, as ltlhuuu's code does with
      `action_norm=True`. It breaks both the noise process and f(x, ε) = x; kept for comparison.

    Args:
        obs_dim, action_dim: dimensions.
        action_low, action_high: bounds of the environment, a number or (action_dim,).
        hidden, activation, embedding: of the network, see `ConditionalMLP`.
        parameterization: ``karras`` (Song et al. 2023), ``trigflow`` (Lu & Song 2024), ``ding_jin``.
        loss: a name in `cmpolicy.consistency.losses.LOSSES`.
        loss_options: hyperparameters of that loss.
        levels: noise levels of sampling, decreasing from σ_max; None for `steps` levels of a
            Karras grid.
        steps: number of network calls an action.

    Raises:
        ValueError: for an unknown name or a value out of range.
    """

    obs_mean: Tensor
    obs_std: Tensor
    latent_mean: Tensor
    latent_scale: Tensor
    action_center: Tensor
    action_half: Tensor

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        *,
        action_low: float | Sequence[float] = -1.0,
        action_high: float | Sequence[float] = 1.0,
        hidden: Sequence[int] = (256, 256, 256),
        activation: str = "silu",
        embedding: str = "fourier",
        bound: str = "tanh",
        parameterization: str = "karras",
        loss: str = "ict",
        loss_options: Mapping[str, Any] | None = None,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        levels: Sequence[float] | None = None,
        steps: int = 1,
    ) -> None:
        super().__init__()
        for value, names, what in (
            (bound, BOUNDS, "bound"),
            (parameterization, PARAMETERIZATIONS, "parameterization"),
            (loss, LOSSES, "loss"),
        ):
            if value not in names:
                raise ValueError(f"unknown {what} {value!r}, expected one of {', '.join(names)}")
        self.obs_dim, self.action_dim, self.bound = obs_dim, action_dim, bound
        self.parameterization = PARAMETERIZATIONS[parameterization](
            LATENT_STD, sigma_min, sigma_max
        )
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.levels = list(levels or few_step_levels(steps, self.parameterization))
        check_levels(self.levels, self.parameterization.boundary)
        self.consistency_loss = LOSSES[loss](**(loss_options or {}))

        self.network = ConditionalMLP(action_dim, obs_dim, hidden, activation, embedding)
        self.target_network: nn.Module | None = None
        if self.consistency_loss.needs_target_ema:
            self.target_network = copy.deepcopy(self.network).requires_grad_(False)

        low = torch.as_tensor(action_low, dtype=torch.float32).expand(action_dim)
        high = torch.as_tensor(action_high, dtype=torch.float32).expand(action_dim)
        if not bool((low < high).all() and low.isfinite().all() and high.isfinite().all()):
            raise ValueError(f"need finite action_low < action_high, got {low}, {high}")
        self.register_buffer("action_center", (low + high) / 2)
        self.register_buffer("action_half", (high - low) / 2)
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.register_buffer("latent_mean", torch.zeros(action_dim))
        self.register_buffer("latent_scale", torch.ones(action_dim))
        self.config: dict[str, Any] = {
            "obs_dim": obs_dim,
            "action_dim": action_dim,
            "action_low": low.tolist(),
            "action_high": high.tolist(),
            "hidden": list(hidden),
            "activation": activation,
            "embedding": embedding,
            "bound": bound,
            "parameterization": parameterization,
            "loss": loss,
            "loss_options": dict(loss_options or {}),
            "sigma_min": sigma_min,
            "sigma_max": sigma_max,
            "levels": self.levels,
        }

    @torch.no_grad()
    def fit_normalizers(
        self, observations: Tensor, actions: Tensor, *, normalize_obs: bool = True
    ) -> None:
        """Measure the statistics of the data; they are saved with the weights.

        Args:
            observations: (N, obs_dim). Standardised before they enter the network.
            actions: (N, action_dim), in the environment's units. With ``bound="tanh"`` their
                latents are standardised to σ_d = 0.5.
            normalize_obs: False leaves observations as they are.
        """
        if normalize_obs:
            self.obs_mean.copy_(observations.mean(0))
            self.obs_std.copy_(observations.std(0).clamp_min(1e-3))
        if self.bound == "tanh":
            self.latent_mean.zero_()
            self.latent_scale.fill_(1.0)
            latent = self.encode(actions)
            self.latent_mean.copy_(latent.mean(0))
            self.latent_scale.copy_(latent.std(0).clamp_min(1e-3) / LATENT_STD)

    def encode(self, actions: Tensor) -> Tensor:
        """Actions in the environment's units → x₀ of the consistency model, (B, action_dim)."""
        a = (actions - self.action_center) / self.action_half
        if self.bound == "tanh":
            a = a.clamp(-ATANH_LIMIT, ATANH_LIMIT).atanh()
        return (a - self.latent_mean) / self.latent_scale

    def decode(self, x0: Tensor) -> Tensor:
        """x₀ of the consistency model → actions inside the environment's bounds."""
        a = x0 * self.latent_scale + self.latent_mean
        a = a.tanh() if self.bound == "tanh" else a.clamp(-1, 1)
        return self.action_center + self.action_half * a

    def normalize(self, observations: Tensor) -> Tensor:
        """Observations as the network sees them, (B, obs_dim)."""
        return (observations - self.obs_mean) / self.obs_std

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
        squash = self.bound == "squash"
        x = x.tanh() if squash else x
        x0 = self.parameterization(network or self.network, x, sigma, condition)
        return x0.tanh() if squash else x0

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
            noise: z of the first step, (B, action_dim); drawn if not given.
            levels: noise levels, decreasing; those of the policy if not given.
        """
        if observations.ndim != 2 or observations.shape[1] != self.obs_dim:
            raise ValueError(
                f"observations must have shape (batch, {self.obs_dim}), "
                f"got {tuple(observations.shape)}"
            )
        condition = self.normalize(observations)
        if noise is None:
            shape = (observations.shape[0], self.action_dim)
            noise = torch.randn(
                shape, generator=generator, device=condition.device, dtype=condition.dtype
            )
        x0 = multistep(
            lambda x, sigma: self.f(x, sigma, condition),
            noise,
            self.levels if levels is None else levels,
            self.parameterization.boundary,
            generator,
        )
        return self.decode(x0)

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
        condition = self.normalize(observations)
        progress = torch.as_tensor(progress, dtype=condition.dtype, device=condition.device)
        per_sample = self.consistency_loss(
            lambda x, sigma: self.f(x, sigma, condition),
            lambda x, sigma: self.f(x, sigma, condition, self.target_network),
            self.encode(actions),
            self.parameterization,
            progress,
            generator,
        )
        return per_sample.mean() if weight is None else (weight * per_sample).mean()

    def update_target(self, progress: Tensor | float = 1.0) -> None:
        """Move the target network of CT towards the online one; nothing to do for iCT."""
        if self.target_network is not None:
            progress = torch.as_tensor(progress, device=self.obs_mean.device)
            decay = self.consistency_loss.target_decay(progress)
            ema_update(self.target_network, self.network, decay)

    @torch.inference_mode()
    def act(
        self,
        observation: npt.ArrayLike,
        *,
        levels: Sequence[float] | None = None,
        generator: torch.Generator | None = None,
    ) -> npt.NDArray[np.float32]:
        """Actions for an environment: (obs_dim,) → (action_dim,), or (N, obs_dim) → (N, action_dim)."""
        array = np.asarray(observation, dtype=np.float32)
        batch = torch.from_numpy(np.atleast_2d(array)).to(self.obs_mean.device)
        actions: npt.NDArray[np.float32] = (
            self(batch, levels=levels, generator=generator).cpu().numpy()
        )
        return actions[0] if array.ndim == 1 else actions

    def save(self, path: str | Path) -> None:
        """Write weights, normalisers and configuration into one safetensors file."""
        tensors = {name: t.contiguous().cpu() for name, t in self.state_dict().items()}
        metadata = {"format": FORMAT, "config": json.dumps(self.config)}
        Path(path).write_bytes(safetensors.torch.save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> ConsistencyPolicy:
        """Read a file that `save` wrote. No pickled code is executed.

        Raises:
            InputError: if the file is missing, damaged, or not a policy.
        """
        try:
            with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise InputError(f"{path} is not a saved ConsistencyPolicy ({FORMAT})")
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            policy = cls(**json.loads(metadata["config"])).to(device)
            policy.load_state_dict(state)
        except FileNotFoundError:
            raise InputError(f"no policy at {path}") from None
        except (safetensors.SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path} is damaged or not a policy: {reason}") from error
        return policy
