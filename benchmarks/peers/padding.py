"""Arrays for fewer entries of observation and action than others, filled up with zeros."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Sizes(NamedTuple):
    """Entries of an observation and of an action."""

    observation: int
    action: int

    @property
    def both(self) -> int:
        return self.observation + self.action


def padded(array: Array, size: int, axis: int = 1) -> Array:
    """With zeros behind along an axis, up to a size."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return np.pad(array, widths)


def padded_parameter(parameter: Array, shape: tuple[int, ...], own: Sizes, whole: Sizes) -> Array:
    """A parameter of a network for `own` in the shape that one for `whole` has.

    Rows that take observation and action beside each other are filled up behind each.
    """
    for axis, (size, target) in enumerate(zip(parameter.shape, shape, strict=True)):
        if (size, target) == (own.both, whole.both):
            parts = zip(np.split(parameter, [own.observation], axis), whole, strict=True)
            parameter = np.concatenate([padded(part, wide, axis) for part, wide in parts], axis)
        else:
            parameter = padded(parameter, target, axis)
    return parameter
