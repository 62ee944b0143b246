"""How actions stay inside the environment's bounds: between action space and latent space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BOUNDS = ("tanh", "clamp", "squash")
# The bound itself is where tanh is this: at 1 actions recorded there would lie infinitely far off,
# and near 1 so far that all others lie close together.
TANH_AT_BOUND = 0.97
LATENT_STD = 0.5  # σ_d of the latent space, the value for which the literature's levels are tuned


class ActionBound(nn.Module):
    """A map between actions in [low, high] and the unbounded x₀ of a consistency model.

    Actions are scaled to [−1, 1] per dimension; then `kind` says how they stay there:

    - ``"tanh"``: x₀ is atanh(0.97 a), standardised per dimension to σ_d = 0.5. The consistency
      equations hold exactly in that space. (A finite distance to the bound is what lets the
      samples reach it; what would lie beyond is clamped.)
    - ``"clamp"``: x₀ is a; samples are clamped, as Ding & Jin's published code runs by default.
    - ``"squash"``: x₀ is a, and the model squashes its noisy inputs and its outputs by tanh, as
      ltlhuuu's `Consistency_models_implement` does with `action_norm=True`. It breaks the noise
      process and f(x, ε) = x; kept so that its results can be reproduced.

    Raises:
        ValueError: unless `low` < `high`, both finite.
    """

    center: Tensor
    half_range: Tensor
    low: Tensor
    high: Tensor
    latent_mean: Tensor
    latent_scale: Tensor

    def __init__(
        self,
        kind: str,
        action_dim: int,
        low: float | Sequence[float] = -1.0,
        high: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        self.kind = kind
        low_ = torch.as_tensor(low, dtype=torch.float32).expand(action_dim).clone()
        high_ = torch.as_tensor(high, dtype=torch.float32).expand(action_dim).clone()
        if not bool((low_ < high_).all() and low_.isfinite().all() and high_.isfinite().all()):
            raise ValueError(
                f"need finite action_low < action_high, got {low_.tolist()} and {high_.tolist()}"
            )
        self.register_buffer("low", low_)
        self.register_buffer("high", high_)
        self.register_buffer("center", (low_ + high_) / 2)
        self.register_buffer("half_range", (high_ - low_) / 2)
        self.register_buffer("latent_mean", torch.zeros(action_dim))
        self.register_buffer("latent_scale", torch.ones(action_dim))

    @torch.no_grad()
    def fit(self, actions: Tensor) -> None:
        """Measure the latents of the data, (N, action_dim), where `kind` standardises them."""
        if self.kind != "tanh":
            return
        self.latent_mean.zero_()
        self.latent_scale.fill_(1.0)
        latent = self.encode(actions)
        self.latent_mean.copy_(latent.mean(0))
        self.latent_scale.copy_(latent.std(0).clamp_min(1e-3) / LATENT_STD)

    def encode(self, actions: Tensor) -> Tensor:
        """Actions in the environment's units → x₀, (B, action_dim)."""
        a = (actions - self.center) / self.half_range
        if self.kind == "tanh":
            a = (TANH_AT_BOUND * a.clamp(-1, 1)).atanh()
        return (a - self.latent_mean) / self.latent_scale

    def decode(self, x0: Tensor) -> Tensor:
        """x₀ → actions inside the bounds whatever x₀ is, (B, action_dim)."""
        a = torch.addcmul(self.latent_mean, x0.nan_to_num(0.0), self.latent_scale)
        a = (a.tanh() / TANH_AT_BOUND if self.kind == "tanh" else a).clamp(-1, 1)
        # Rounding in center + half·a can step over a bound by one unit in the last place.
        return torch.addcmul(self.center, self.half_range, a).clamp(self.low, self.high)
