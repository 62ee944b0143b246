"""How far apart the data's actions lie, entry by entry: the unit of the kernel of their mode."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_ROWS = 20_000  # evenly spaced ones are looked at, so that large data cost no more
MAX_GROUPS = 16
ROWS_PER_GROUP = 4  # fewer rows tell nothing about groups
TIGHTNESS = 4.0  # groups are so much narrower than the smallest gap between them


def action_spread(actions: Tensor) -> Tensor:
    """Half the range of each entry; of an entry with few values, a quarter of the gap between them.

    A gripper is open or closed, a gear lever has six positions: no action between two of them was
    recorded, and no mode may lie there. Values may be blurred, see `smallest_gap`.

    Args:
        actions: (N, d).

    Returns:
        (d,), 0 for an entry that is constant.
    """
    whole = actions.amax(0) - actions.amin(0)
    ordered = actions[:: -(-len(actions) // MAX_ROWS)].sort(0).values
    gaps = torch.stack([smallest_gap(column) for column in ordered.unbind(1)])
    return torch.where(gaps > 0, gaps / 4, whole / 2)


def smallest_gap(ordered: Tensor) -> Tensor:
    """The smallest gap between the groups that the values of an entry lie in, (); 0 for none.

    Groups are 2 to 16 intervals, each narrower than a quarter of every gap between two.

    Args:
        ordered: (N,), ascending.
    """
    steps = ordered.diff()
    most = min(MAX_GROUPS, len(ordered) // ROWS_PER_GROUP) - 1
    cuts = steps.topk(max(most, 0)).indices
    for count in range(len(cuts), 0, -1):
        ends = cuts[:count].sort().values
        first = ordered[torch.cat((ends.new_zeros(1), ends + 1))]
        last = ordered[torch.cat((ends, ends.new_full((1,), len(ordered) - 1)))]
        gap = steps[ends].amin()
        if gap > 0 and bool((last - first).amax() * TIGHTNESS <= gap):
            return gap
    return ordered.new_zeros(())
