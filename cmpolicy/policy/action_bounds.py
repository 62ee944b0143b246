"""How actions stay inside the environment's bounds: between action space and latent space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cmpolicy.array_types import FloatArray
from cmpolicy.policy.action_spread import action_spread

BOUNDS = ("tanh", "clamp", "squash")
# Where tanh is cut off: at 1 an action on the bound would be infinitely far from all others.
TANH_AT_BOUND = 0.97
LATENT_STD = 0.5  # σ_d of the latent space, the value for which the literature's levels are tuned


class ActionBound(nn.Module):
    """A map between actions in [low, high] and the unbounded x₀ of a consistency model.

    Actions are scaled to [−1, 1] by entry; then `kind` says how they stay there:

    - ``"tanh"``: x₀ is atanh(0.97 a), standardised by entry to σ_d = 0.5. The consistency
      equations hold exactly in that space. Samples can reach the bounds; what would lie beyond
      is clamped.
    - ``"clamp"``: x₀ is a; samples are clamped, as Ding & Jin's published code runs by default.
    - ``"squash"``: x₀ is a, and the model squashes its noisy inputs and its outputs by tanh, as
      ltlhuuu's `Consistency_models_implement` does with `action_norm=True`. It breaks the noise
      process and f(x, ε) = x; kept so that its results can be reproduced.

    Args:
        kind: a name in BOUNDS.
        action_dim: number of entries of an action.
        low, high: bounds, a number or (action_dim,). They may be infinite, and equal where an
            actuator is fixed.

    Attributes:
        low, high: what actions lie in, (action_dim,): the given bounds, rounded inwards to
            float32. `fit` narrows them to three times the data's range.
        center, half_range: of low and high; half_range is 1 for a fixed entry.
        spread: half the distance between actions that are far apart, (action_dim,), see
            `action_spread`.

    Raises:
        ValueError: unless low ≤ high, neither of them NaN.
    """

    center: Tensor
    half_range: Tensor
    low: Tensor
    high: Tensor
    spread: Tensor
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
        self.given_low, self.given_high = round_inwards(low, high, action_dim)
        for name in ("center", "half_range", "low", "high", "spread", "latent_mean"):
            self.register_buffer(name, torch.zeros(action_dim))
        self.register_buffer("latent_scale", torch.ones(action_dim))
        # Until data are measured, an infinite bound lies two units from the other one.
        reach = torch.from_numpy(self.given_low), torch.from_numpy(self.given_high)
        finite_low = torch.where(reach[0].isinf(), (reach[1] - 2).clamp(max=-1), reach[0])
        finite_high = torch.where(reach[1].isinf(), finite_low + 2, reach[1])
        self._set_range(finite_low.double(), finite_high.double())
        self.spread.copy_(self.half_range)

    def _set_range(self, low: Tensor, high: Tensor) -> None:
        """Take (action_dim,) float64 bounds that are finite."""
        half_range = (high - low) / 2
        self.low.copy_(low)
        self.high.copy_(high)
        self.center.copy_((low + high) / 2)
        self.half_range.copy_(torch.where(half_range > 0, half_range, 1.0))

    @torch.no_grad()
    def fit(self, actions: Tensor) -> None:
        """Measure the data's actions, (N, action_dim).

        Bounds that lie farther from the data than the data's own range are drawn in to that
        distance, so that precision does not depend on them.

        Raises:
            ValueError: if there are none, or one is NaN or infinite.
        """
        a = actions.to(self.low.device, torch.float64)
        if not len(a) or not bool(a.isfinite().all()):
            raise ValueError(
                f"need finite actions to measure, got {tuple(a.shape)} with NaN or inf"
            )
        low, high = (torch.from_numpy(end).to(a) for end in (self.given_low, self.given_high))
        a = a.clamp(low, high)
        least, greatest = a.amin(0), a.amax(0)
        width = greatest - least
        self._set_range(torch.maximum(low, least - width), torch.minimum(high, greatest + width))
        spread = action_spread(a)
        self.spread.copy_(torch.where(spread > 0, spread, self.half_range))
        if self.kind == "tanh":
            latent = (TANH_AT_BOUND * self._scaled(a).clamp(-1, 1)).atanh()
            self.latent_mean.copy_(latent.mean(0))
            self.latent_scale.copy_(
                latent.std(0, correction=min(1, len(a) - 1)).clamp_min(1e-3) / LATENT_STD
            )

    def _scaled(self, actions: Tensor) -> Tensor:
        return (actions - self.center) / self.half_range

    def encode(self, actions: Tensor) -> Tensor:
        """Actions in the environment's units → x₀, (B, action_dim)."""
        a = self._scaled(actions)
        if self.kind == "tanh":
            a = (TANH_AT_BOUND * a.clamp(-1, 1)).atanh()
        return (a - self.latent_mean) / self.latent_scale

    def decode(self, x0: Tensor) -> Tensor:
        """x₀ → actions inside the bounds whatever x₀ is, (B, action_dim)."""
        a = torch.addcmul(self.latent_mean, x0.nan_to_num(0.0), self.latent_scale)
        a = (a.tanh() / TANH_AT_BOUND if self.kind == "tanh" else a).clamp(-1, 1)
        # Rounding in center + half·a can step over a bound by one unit in the last place.
        return torch.addcmul(self.center, self.half_range, a).clamp(self.low, self.high)

    def as_numpy(self, actions: Tensor) -> FloatArray:
        """Actions as NumPy float32, inside the given bounds whatever dtype the policy has."""
        array: FloatArray = actions.float().cpu().numpy()
        if actions.dtype == torch.float32:  # as `decode` gave them
            return array
        return array.clip(self.given_low, self.given_high)


def round_inwards(
    low: float | Sequence[float], high: float | Sequence[float], action_dim: int
) -> tuple[FloatArray, FloatArray]:
    """Bounds as float32, (action_dim,) each, that do not exceed those given in float64.

    Equal bounds that float32 cannot hold become the nearest number that it can.

    Raises:
        ValueError: unless low ≤ high, neither of them NaN.
    """
    given = [np.broadcast_to(np.asarray(x, np.float64), action_dim) for x in (low, high)]
    if (
        not (given[0] <= given[1]).all()
        or not (given[0] < np.inf).all()
        or not (given[1] > -np.inf).all()
    ):
        raise ValueError(
            f"need action_low ≤ action_high, got {given[0].tolist()} and {given[1].tolist()}"
        )
    largest = float(np.finfo(np.float32).max)
    nearest = [
        np.where(np.isinf(x), x, x.clip(-largest, largest)).astype(np.float32) for x in given
    ]
    up = np.nextafter(nearest[0], np.float32(np.inf))
    down = np.nextafter(nearest[1], np.float32(-np.inf))
    inner_low = np.where(nearest[0] < np.maximum(given[0], -largest), up, nearest[0])
    inner_high = np.where(nearest[1] > np.minimum(given[1], largest), down, nearest[1])
    crossed = inner_low > inner_high
    return np.where(crossed, nearest[0], inner_low), np.where(crossed, nearest[0], inner_high)
