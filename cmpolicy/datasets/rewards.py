"""The reward transforms of the literature, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cmpolicy.datasets.return_weights import usual_range
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError

RewardTransform = Callable[[Tensor], Tensor]  # of rewards of any shape, recorded before or after


def none(dataset: TransitionDataset) -> RewardTransform:
    """The rewards as recorded."""
    return lambda rewards: rewards


def normalize(dataset: TransitionDataset) -> RewardTransform:
    """Mean 0 and standard deviation 1: Adroit in Diffusion-QL (Wang et al. 2023) and
    Consistency-AC (Ding & Jin 2024).
    """
    mean, std = dataset.rewards.mean(), dataset.rewards.std()
    if not std > 0:
        raise InputError("all rewards are equal, expected some spread; use the reward 'none'")
    return lambda rewards: (rewards - mean) / std


def iql_locomotion(dataset: TransitionDataset) -> RewardTransform:
    """1000 r / (best return - worst return): MuJoCo locomotion in IQL (Kostrikov et al. 2022)."""
    worst, best = usual_range(dataset.episode_returns())
    spread = best - worst
    if spread <= 0:
        raise InputError("all episodes return the same, expected a spread; use the reward 'none'")
    return lambda rewards: rewards * (1000.0 / spread)


def iql_antmaze(dataset: TransitionDataset) -> RewardTransform:
    """r - 1, a cost for every step before the goal: AntMaze in IQL (Kostrikov et al. 2022)."""
    return lambda rewards: rewards - 1.0


def cql_antmaze(dataset: TransitionDataset) -> RewardTransform:
    """4 (r - 0.5): AntMaze in CQL (Kumar et al. 2020), Diffusion-QL and Consistency-AC."""
    return lambda rewards: 4.0 * (rewards - 0.5)


REWARDS: dict[str, Callable[[TransitionDataset], RewardTransform]] = {
    transform.__name__: transform
    for transform in (none, normalize, iql_locomotion, iql_antmaze, cql_antmaze)
}


def reward_transform(dataset: TransitionDataset, name: str) -> RewardTransform:
    """The transform `REWARDS[name]` with what it must know of the data.

    Raises:
        InputError: no transform of that name, or rewards that it cannot scale.
    """
    if name not in REWARDS:
        raise InputError(f"no reward transform {name!r}, expected one of {', '.join(REWARDS)}")
    return REWARDS[name](dataset)


def transform_rewards(dataset: TransitionDataset, name: str) -> TransitionDataset:
    """The dataset with the rewards transformed by `REWARDS[name]`; see `reward_transform`."""
    return dataset.replace(rewards=reward_transform(dataset, name)(dataset.rewards))
