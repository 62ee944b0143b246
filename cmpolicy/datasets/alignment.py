"""Alignment: which observation follows which action, in flat files and in episodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cmpolicy.array_types import BoolArray, FloatArray
from cmpolicy.datasets.array_validation import (
    check_equal_lengths,
    checked_flags,
    checked_matrix,
    checked_vector,
)
from cmpolicy.errors import InputError


class Steps(NamedTuple):
    """All recorded steps of a dataset in order, and which of them are transitions."""

    observations: FloatArray  # (N, obs_dim)
    actions: FloatArray  # (N, action_dim)
    rewards: FloatArray  # (N,)
    next_observations: FloatArray  # (N, obs_dim)
    terminals: BoolArray  # (N,)
    ends: BoolArray  # (N,), the last step of each episode
    known: BoolArray  # (N,), the next observation is known or not needed: a transition


class Episode(Protocol):
    """One episode in Minari's alignment, as `minari.EpisodeData` is.

    `observations[t + 1]` is what `actions[t]` led to.
    """

    observations: Any  # (T+1, obs_dim)
    actions: Any  # (T, action_dim)
    rewards: Any  # (T,)
    terminations: Any  # (T,)


def align_arrays(
    observations: Any,
    actions: Any,
    rewards: Any,
    terminals: Any,
    timeouts: Any = None,
    next_observations: Any = None,
    max_episode_steps: int | None = None,
) -> Steps:
    """Align consecutive rows; see `TransitionDataset.from_arrays` for the rule.

    Raises:
        InputError: wrong shapes, dtypes or lengths, NaN or inf.
    """
    named: dict[str, NDArray[Any]] = {
        "observations": checked_matrix("observations", observations),
        "actions": checked_matrix("actions", actions),
        "rewards": checked_vector("rewards", rewards),
        "terminals": checked_flags("terminals", terminals),
    }
    if timeouts is not None:
        named["timeouts"] = checked_flags("timeouts", timeouts)
    if next_observations is not None:
        named["next_observations"] = checked_matrix("next_observations", next_observations)
    check_equal_lengths(named)
    obs, ended = named["observations"], named["terminals"]
    following = np.roll(obs, -1, axis=0)
    nexts = named.get("next_observations", following)
    if nexts.shape != obs.shape:
        raise InputError(
            f"next_observations has shape {nexts.shape}, expected that of observations, {obs.shape}"
        )
    goes_on = np.asarray((nexts == following).all(1))  # to the row below
    cut = named.get("timeouts", _cut_at(max_episode_steps, ended | ~goes_on))
    cut[-1] = True
    return Steps(
        obs, named["actions"], named["rewards"], nexts, ended, ended | cut | ~goes_on,
        ended | ~(cut & goes_on),
    )  # fmt: skip


def align_episodes(episodes: Iterable[Episode]) -> Steps:
    """Episodes of `T+1` observations and `T` actions, end to end; every step is a transition.

    Raises:
        InputError: no step at all, lengths or shapes that do not fit, NaN or inf.
    """
    kept = [_episode_columns(number, episode) for number, episode in enumerate(episodes)]
    kept = [columns for columns in kept if len(columns["rewards"])]
    if not kept:
        raise InputError("the dataset holds no steps, expected at least one episode of one step")
    joined = {name: _joined(name, [columns[name] for columns in kept]) for name in kept[0]}
    ends = np.zeros(len(joined["rewards"]), dtype=np.bool_)
    ends[np.cumsum([len(columns["rewards"]) for columns in kept]) - 1] = True
    return Steps(
        checked_matrix("observations", joined["observations"]),
        checked_matrix("actions", joined["actions"]),
        checked_vector("rewards", joined["rewards"]),
        checked_matrix("next_observations", joined["next_observations"]),
        checked_flags("terminations", joined["terminations"]),
        ends,
        np.ones_like(ends),
    )


def returns_of(rewards: FloatArray, ends: BoolArray) -> NDArray[np.float64]:
    """Undiscounted return of each episode, (episodes,); `ends` marks last steps, the last too."""
    begins = np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])
    return np.asarray(np.add.reduceat(rewards.astype(np.float64), begins))


def _cut_at(max_episode_steps: int | None, ends: BoolArray) -> BoolArray:
    """Mark every `max_episode_steps`-th step since the episode began, (N,) bool."""
    if max_episode_steps is None:
        return np.zeros_like(ends)
    if max_episode_steps < 1:
        raise InputError(f"max_episode_steps is {max_episode_steps}, expected at least 1")
    step = np.arange(len(ends))
    begins = np.concatenate([[True], ends[:-1]])
    since_begin = step - np.maximum.accumulate(np.where(begins, step, 0))
    return np.asarray(since_begin % max_episode_steps == max_episode_steps - 1)


def _episode_columns(number: int, episode: Episode) -> dict[str, NDArray[Any]]:
    obs, actions = np.asarray(episode.observations), np.asarray(episode.actions)
    rewards, terminations = np.asarray(episode.rewards), np.asarray(episode.terminations)
    if not len(obs) - 1 == len(actions) == len(rewards) == len(terminations):
        raise InputError(
            f"episode {number} has {len(obs)} observations, {len(actions)} actions, "
            f"{len(rewards)} rewards and {len(terminations)} terminations, expected T+1, T, T, T"
        )
    return {
        "observations": obs[:-1],
        "actions": actions,
        "rewards": rewards,
        "next_observations": obs[1:],
        "terminations": terminations,
    }


def _joined(name: str, parts: list[NDArray[Any]]) -> NDArray[Any]:
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        said = " and ".join(str(shape) for shape in sorted(shapes))
        raise InputError(f"{name} has steps of shapes {said}, expected one shape for all episodes")
    return np.concatenate(parts)
