"""Episodes as columns, in the dtypes of OGBench's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]  # of an episode: (steps, …) each
DTYPES = {"terminals": np.bool_, "button_states": np.int64}


def columns_of(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """The steps of an episode, one mapping each."""
    return {
        key: np.array([row[key] for row in rows], dtype=DTYPES.get(key, np.float32))
        for key in rows[0]
    }
