"""What a mode of the recorded actions is, and how samples are held against them.

Around a held-out state, the `NEIGHBOURS` nearest observations of other episodes are halved by
rank: policies are asked for one action at each of the one half, and their actions are held against
those recorded in the other.

recall      share of the recorded actions with a sample within `RADIUS`
precision   share of the samples with a recorded action within `RADIUS`
energy      2 E|X − Y| − E|X − X'| − E|Y − Y'|, 0 between equal distributions (Székely & Rizzo 2013)
both modes  at states of two modes: how often each of them has at least half of its share of the
            samples within `RADIUS`

A state has two modes where a cut across the principal axis of all its neighbours' actions takes
`EXPLAINED` of their variance away, and leaves `MINOR` of them on either side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cmpolicy.datasets.transitions import TransitionDataset

Array = NDArray[Any]
NEIGHBOURS, RADIUS = 64, 0.25
EXPLAINED, MINOR, SPREAD = 0.7, 0.15, 0.5
MEASURES = ("recall", "precision", "energy", "both modes")


class Places(NamedTuple):
    """Held-out states and what was recorded around them.

    Attributes:
        asked: (S, k, obs_dim) observations at which policies are asked for actions.
        floor: (S, k, action_dim) actions recorded there.
        recorded: (S, k, action_dim) actions of the other neighbours, to compare with.
        first_mode: (S, k) bool, which of these are on one side of the cut.
        two_modes: (S,) bool.
        clarity: (S,) share of the variance that the cut takes away.
        distance: (S,) of the farthest neighbour, in standard deviations of observations.
    """

    asked: Array
    floor: Array
    recorded: Array
    first_mode: Array
    two_modes: Array
    clarity: Array
    distance: Array


def neighbourhoods(
    dataset: TransitionDataset, held_out: Array, states: int, rng: np.random.Generator
) -> Places:
    """`states` held-out states drawn at random, with their neighbours of other episodes."""
    observations = dataset.observations.numpy()
    actions = dataset.actions.numpy()
    episode = episode_numbers(dataset)
    z = (observations / dataset.observation_std.numpy())[held_out]
    tree = cKDTree(z)
    near, far = [], []
    for i in rng.choice(len(held_out), min(states, len(held_out)), replace=False):
        distance, found = tree.query(z[i], k=min(6 * NEIGHBOURS, len(held_out)))
        other = episode[held_out[found]] != episode[held_out[i]]
        if other.sum() >= NEIGHBOURS:  # a long stay in one place has its own episode around it
            near.append(held_out[found[other][:NEIGHBOURS]])
            far.append(distance[other][NEIGHBOURS - 1])
    index = np.stack(near)
    around = actions[index]
    cut = [best_cut(a) for a in around]
    first = np.stack([side for side, _ in cut])
    clarity = np.array([explained for _, explained in cut])
    minor = np.minimum(first.mean(1), 1 - first.mean(1))
    spread = np.sqrt(around.var(1).sum(1))
    return Places(
        observations[index[:, ::2]],
        around[:, ::2],
        around[:, 1::2],
        first[:, 1::2],
        (clarity >= EXPLAINED) & (minor >= MINOR) & (spread >= SPREAD),
        clarity,
        np.array(far),
    )


def episode_numbers(dataset: TransitionDataset) -> Array:
    """Which episode each transition is of, from 0 on, (N,)."""
    return np.cumsum(np.append(False, dataset.episode_ends.numpy()[:-1]))


def best_cut(actions: Array) -> tuple[Array, float]:
    """The cut across the principal axis that takes most variance away: (one side, share of it)."""
    centred = actions - actions.mean(0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    order = np.argsort(along)
    below = np.arange(1, len(actions))
    sums = np.cumsum(centred[order], 0)[:-1]
    between = np.square(sums).sum(1) * (1 / below + 1 / (len(actions) - below))
    side = np.zeros(len(actions), dtype=bool)
    side[order[: between.argmax() + 1]] = True
    return side, float(between.max() / max(np.square(centred).sum(), 1e-9))


def at_bounds(places: Places) -> float:
    """Share of the entries of recorded actions that are at ±1, where there are two modes."""
    recorded = np.concatenate((places.floor, places.recorded), axis=1)[places.two_modes]
    return float((np.abs(recorded) > 0.95).mean())


def measure(samples: Array, places: Places) -> dict[str, dict[str, float]]:
    """Every measure, over all states and over those of two modes."""
    recorded = places.recorded
    apart = distances(samples, recorded)  # (S, samples, recorded)
    near = apart <= RADIUS
    share = places.first_mode.mean(1)
    nearest = np.take_along_axis(places.first_mode, apart.argmin(2), 1)  # the mode of a sample
    counted = near.any(2)
    first, second = (nearest & counted).mean(1), (~nearest & counted).mean(1)
    k = recorded.shape[1]
    within = [distances(x, x).sum((1, 2)) / (k * (k - 1)) for x in (samples, recorded)]
    by_state = {
        "recall": near.any(1).mean(1),
        "precision": counted.mean(1),
        "energy": 2 * apart.mean((1, 2)) - within[0] - within[1],
        "both modes": (first >= share / 2) & (second >= (1 - share) / 2),
    }
    two = places.two_modes
    return {
        "all": {key: float(v.mean()) for key, v in by_state.items() if key != "both modes"},
        "two modes": {
            key: float(v[two].mean()) if two.any() else 0.0 for key, v in by_state.items()
        },
    }


def distances(x: Array, y: Array) -> Array:
    """Euclidean, state by state: (S, n, d), (S, m, d) → (S, n, m)."""
    return np.linalg.norm(x[:, :, None] - y[:, None], axis=-1)


def examples(places: Places) -> list[int]:
    """Two states, by the data alone: the nearest neighbours among those cut most clearly."""
    share = places.first_mode.mean(1)
    fair = places.two_modes & (np.minimum(share, 1 - share) >= 0.3)
    candidates = np.flatnonzero(fair if fair.sum() >= 2 else places.clarity >= 0)
    clear = candidates[np.argsort(-places.clarity[candidates])][: max(2, len(candidates) // 5)]
    first, *others = clear[np.argsort(places.distance[clear])]
    middle = places.asked.mean(1)
    away = [float(np.linalg.norm(middle[i] - middle[first])) for i in others]
    return [int(first), int(others[int(np.argmax(away))])]
