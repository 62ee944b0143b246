"""Hindsight: goals that episodes did reach, in place of those that they were recorded with."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from cmpolicy.datasets.dict_observations import vector_at
from cmpolicy.datasets.transitions import TransitionBatch, TransitionDataset
from cmpolicy.datasets.windows import first_and_last
from cmpolicy.errors import InputError
from cmpolicy.rl.environments import Environment

PIECES = 4  # of an episode, on average
GOALS = ("achieved_goal", "desired_goal")


def with_future_goals(
    dataset: TransitionDataset, environment: Environment, copies: int, seed: int
) -> TransitionDataset:
    """Beside the recorded steps `copies` of them, with goals of their own future.

    Each copy cuts episodes into pieces at random. The goal of a piece is what its last step
    achieves (Andrychowicz et al. 2017, §4.5), so that chunks and histories have one goal. The
    environment computes rewards; where a goal is reached nothing is bootstrapped.

    Raises:
        InputError: unless the environment has goals and computes rewards for any.
    """
    env = environment.make()
    keys, base = environment.observation_keys or [], env.unwrapped
    if not set(GOALS) <= set(keys) or not hasattr(base, "compute_reward"):
        raise InputError(
            f"dataset.future_goals={copies} needs an environment whose observations have "
            f"{' and '.join(GOALS)}; those of {environment.id} have {', '.join(keys) or 'no keys'}"
        )
    sizes = [vector_at(base.observation_space, key).shape[0] for key in keys]
    ends = np.cumsum(sizes)
    achieved, desired = (
        slice(ends[i] - sizes[i], ends[i]) for i in (keys.index(key) for key in GOALS)
    )
    rng = np.random.default_rng([seed, len(dataset)])
    share = PIECES * max(1, int(dataset.episode_ends.sum())) / len(dataset)
    parts, lasts = [dataset.transitions.recorded], [dataset.episode_ends]
    for _ in range(copies):
        cuts = dataset.episode_ends | torch.from_numpy(rng.random(len(dataset)) < share)
        reached = dataset.next_observations[:, achieved]
        goals = reached[first_and_last(cuts)[1]]
        seen, following = dataset.observations.clone(), dataset.next_observations.clone()
        seen[:, desired] = following[:, desired] = goals
        rewards, at_goal = (_rewards(base, each, goals) for each in (reached, goals))
        parts.append((seen, dataset.actions, rewards, following, (rewards >= at_goal).float()))
        lasts.append(cuts)
    env.close()
    columns = TransitionBatch.of(torch.cat(rows) for rows in zip(*parts, strict=True))
    info = dataclasses.replace(dataset.info, transitions=len(columns.rewards))
    return dataset.changed(transitions=columns, episode_ends=torch.cat(lasts), info=info)


def _rewards(env: Any, achieved: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
    """What the environment gives for having achieved something, (N, d) → (N,) float32."""
    rewards = env.compute_reward(achieved.numpy(), goals.numpy(), {})
    return torch.as_tensor(np.asarray(rewards, np.float32))
