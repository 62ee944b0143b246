"""What a policy observes: arrays and spaces as it takes them, statistics of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmpolicy.array_types import FloatArray

ROUNDING = 1e-6  # a smaller standard deviation, relative to an entry's size, is float32's rounding
COLUMNS = 16  # converted to float64 at a time
FLATTEN = "wrap the environment in gymnasium.wrappers.FlattenObservation"


def dimensions(observation_space: Any, action_space: Any) -> dict[str, Any]:
    """Give the arguments of a policy for these Gymnasium spaces, as keywords.

    Raises:
        ValueError: unless both are vectors (Box); it names the wrapper where there is one.
    """
    for name, space in (("observation", observation_space), ("action", action_space)):
        shape = getattr(space, "shape", None)
        if hasattr(space, "low") and shape is not None and len(shape) == 1:
            continue
        hint = ""
        if name == "observation":
            hint = f"; {FLATTEN}"
        raise ValueError(f"the {name} space is {space}, expected a vector (Box){hint}")
    return {
        "obs_dim": observation_space.shape[0],
        "action_dim": action_space.shape[0],
        "action_low": action_space.low.tolist(),
        "action_high": action_space.high.tolist(),
    }


def observation_array(observation: Any, dtype: npt.DTypeLike) -> FloatArray:
    """Copy observations, of which torch would refuse read-only memory, as one array.

    Args:
        observation: an array, a list, or a tensor on any device.

    Raises:
        ValueError: for a dictionary, NaN or infinity.
    """
    if isinstance(observation, Mapping):
        raise ValueError(
            f"the observation is a dictionary of {', '.join(map(str, observation))}, expected a "
            f"vector; {FLATTEN}"
        )
    if isinstance(observation, Tensor):
        observation = observation.detach().cpu().double().numpy()
    array = np.array(observation, dtype)
    if not np.isfinite(array).all():
        index = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"the observation is {array[tuple(index)]} at index {index.tolist()}")
    return array


def mean_and_unit(observations: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each entry in float64; of a constant one its size, or 1.

    Args:
        observations: (N, obs_dim); converted `COLUMNS` at a time.

    Raises:
        ValueError: for no rows, NaN or infinity.
    """
    if not len(observations) or not bool(observations.isfinite().all()):
        raise ValueError(
            f"need finite observations to measure, got NaN or inf in {len(observations)} rows"
        )
    means, units = [], []
    for column in range(0, observations.shape[1], COLUMNS):
        x = observations[:, column : column + COLUMNS].double()
        std, size = x.std(0, correction=min(1, len(x) - 1)), x.abs().amax(0)
        constant = std <= ROUNDING * size
        means.append(x.mean(0))
        units.append(torch.where(constant, torch.where(size > 0, size, 1.0), std))
    return torch.cat(means), torch.cat(units)
