"""Dictionaries of observations as vectors, flattened alike in data and environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmpolicy.errors import InputError


def leaf_keys(spaces: Mapping[str, Any]) -> list[str]:
    """Name the vectors of a dictionary of spaces in its own order, ``goal/burner`` for nested ones.

    Args:
        spaces: values are spaces, or, for a dictionary below, such a mapping.
    """
    keys = []
    for key, space in spaces.items():
        below = getattr(space, "spaces", space)
        inner = leaf_keys(below) if isinstance(below, Mapping) else None
        keys += [key] if inner is None else [f"{key}/{name}" for name in inner]
    return keys


def chosen_keys(spaces: Mapping[str, Any], wanted: Sequence[str] | None) -> list[str]:
    """Expand `wanted` to the vectors that stand there or below; None for all.

    Raises:
        InputError: the dictionary has no such key.
    """
    there = leaf_keys(spaces)
    if wanted is None:
        return there
    chosen = []
    for key in wanted:
        found = [leaf for leaf in there if leaf == key or leaf.startswith(f"{key}/")]
        if not found:
            raise InputError(
                f"the observations have no entry {key!r}, as the data do; there are: "
                f"{', '.join(there)}"
            )
        chosen += found
    return chosen


def vector_at(values: Any, key: str) -> Any:
    """Look up one of `leaf_keys` in a dictionary of values or of spaces."""
    for part in key.split("/"):
        values = values[part]
    return values


def flatten(values: Any, keys: Sequence[str]) -> NDArray[Any]:
    """Put the vectors of `keys` end to end: each (…, size) → (…, sum of sizes)."""
    return np.concatenate([np.asarray(vector_at(values, key)) for key in keys], axis=-1)
