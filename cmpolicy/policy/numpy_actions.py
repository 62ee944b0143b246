"""From observations in NumPy to actions in NumPy, by a policy on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmpolicy.array_types import FloatArray

if TYPE_CHECKING:
    from cmpolicy.policy.consistency_policy import ConsistencyPolicy

MAX_NUMBERS = 2**22  # in one intermediate result


def numpy_actions(
    policy: ConsistencyPolicy,
    sample: Callable[[Tensor], Tensor],
    mode_of: int,
    observation: npt.ArrayLike,
) -> FloatArray:
    """(obs_dim,) or (N, obs_dim) → float32 actions by `sample`; large batches in parts.

    Raises:
        ValueError: for NaN or infinity.
    """
    dtype = policy.obs_mean.dtype
    # A copy, because torch refuses read-only memory.
    array = np.array(observation, np.float64 if dtype == torch.float64 else np.float32)
    if not np.isfinite(array).all():
        index = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"the observation is {array[tuple(index)]} at index {index.tolist()}")
    batch = torch.from_numpy(array[None] if array.ndim < 2 else array)
    batch = batch.to(policy.obs_mean.device, dtype)
    rows = max(1, MAX_NUMBERS // (mode_of**2 * policy.action_dim + max(policy.config.hidden)))
    if len(batch) > rows:
        parts = [sample(batch[i : i + rows]) for i in range(0, len(batch), rows)]
        actions = policy.bound.as_numpy(torch.cat(parts))
    else:
        actions = policy.bound.as_numpy(sample(batch))
    return actions[0] if array.ndim < 2 else actions
