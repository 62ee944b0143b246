"""Actions of policies, float32 vectors, as an environment's action space takes them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import TransformAction

from cmpolicy.array_types import FloatArray
from cmpolicy.errors import InputError


def with_policy_actions(env_id: str, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Make an environment take float32 actions of a policy.

    For a space of integers they are rounded to the nearest; those of any other dtype are clipped
    to bounds that float32 cannot hold.

    Raises:
        InputError: unless actions are a vector with finite bounds.
    """
    space = env.action_space
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise InputError(
            f"{env_id} has the action space {space}, expected a vector (Box): policies give "
            "continuous actions; wrap the environment in one that takes them"
        )
    if not space.is_bounded() or not (space.low <= space.high).all():
        raise InputError(
            f"{env_id} has unbounded actions {space}, expected finite bounds: set them in the "
            "environment or with gymnasium.wrappers.TransformAction"
        )
    if space.dtype == np.float32:
        return env
    whole, low, high = np.issubdtype(space.dtype, np.integer), space.low, space.high

    def convert(action: FloatArray) -> np.ndarray[Any, Any]:
        exact = np.asarray(action, np.float64)
        exact = np.rint(exact) if whole else exact
        return exact.clip(low.astype(np.float64), high.astype(np.float64)).astype(space.dtype)

    return TransformAction(env, convert, space)
