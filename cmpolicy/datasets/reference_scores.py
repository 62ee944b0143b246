"""D4RL's reference returns: a random policy scores 0, an expert 100."""

from __future__ import annotations

import re
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cmpolicy.errors import InputError

# minimum and maximum return, from D4RL's `infos.py` (Fu et al. 2020)
REFERENCE_SCORES: dict[str, tuple[float, float]] = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "pen": (96.262799, 3076.8331),
    "hammer": (-274.856578, 12794.1348),
    "door": (-56.512833, 2880.5693),
    "relocate": (-6.425911, 4233.8778),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
}

# The ids of tasks, datasets and environments, with the rewards that the references are of. Not
# AdroitHandDoor-v1, AdroitHandHammer-v1 and AdroitHandRelocate-v1: where D4RL subtracts a tenth of
# the hand's distance from its target, gymnasium-robotics (1.4.2) adds it.
_IDS = re.compile(
    r"(Hopper|HalfCheetah|Walker2d)-v[2-5]"
    r"|AdroitHand(Pen)-v1|(AntMaze)_(?:UMaze|Medium|Large)\w*-v[3-5]|Franka(Kitchen)-v1"
    r"|(hopper|halfcheetah|walker2d)-(?:random|simple|medium|expert|full)"
    r"(?:-replay|-expert)?(?:-v[0-2])?"
    r"|(pen|hammer|door|relocate)-(?:human|cloned|expert)(?:-longhorizon)?(?:-v[01])?"
    r"|(antmaze)-(?:umaze|medium|large|ultra)(?:-diverse|-play)?(?:-v[0-2])?"
    r"|(kitchen)-(?:complete|partial|mixed)(?:-v0)?"
    r"|mujoco/(hopper|halfcheetah|walker2d)/[\w-]+-v\d+"
    r"|D4RL/(pen|hammer|door|relocate|antmaze|kitchen)/[\w-]+-v\d+"
    rf"|({'|'.join(REFERENCE_SCORES)})"
)


def reference_task(name: str) -> str | None:
    """The key of `REFERENCE_SCORES` for the exact id of an environment or a dataset, or None."""
    match = _IDS.fullmatch(name)
    return next(filter(None, match.groups())).lower() if match else None


def reference_scores(env_id: str) -> tuple[float, float] | None:
    """(minimum, maximum) return for an environment or dataset id, None where D4RL has none.

    `Hopper-v2`, `Hopper-v5`, `hopper-medium-v2`, `mujoco/hopper/medium-v0`, `AdroitHandPen-v1`,
    `AntMaze_UMaze-v4` and `FrankaKitchen-v1` are all known; `own:Hopper-v5` is not.
    """
    task = reference_task(env_id)
    return None if task is None else REFERENCE_SCORES[task]


@overload
def normalized_score(reference: str | tuple[float, float], returns: float) -> float: ...


@overload
def normalized_score(
    reference: str | tuple[float, float], returns: ArrayLike
) -> NDArray[np.float64] | float: ...


def normalized_score(reference: str | tuple[float, float], returns: Any) -> Any:
    """100 (R - min) / (max - min), elementwise in float64.

    Args:
        reference: an environment or dataset id, or (minimum, maximum).
        returns: undiscounted episode returns, any shape.

    Raises:
        InputError: no reference is known for the id, or the two references are equal.
    """
    scores = reference_scores(reference) if isinstance(reference, str) else reference
    if scores is None:
        raise InputError(
            f"no reference scores for {reference!r}, expected one of "
            f"{', '.join(REFERENCE_SCORES)}; pass (minimum, maximum)"
        )
    low, high = scores
    if low == high:
        raise InputError(f"the reference scores are both {low}, expected minimum < maximum")
    normalized = 100.0 * (np.asarray(returns, dtype=np.float64) - low) / (high - low)
    return float(normalized) if normalized.ndim == 0 else normalized
