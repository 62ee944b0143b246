"""The reward transforms of the literature, by name."""

from __future__ import annotations

from collections.abc import Callable

from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError


def none(dataset: TransitionDataset) -> TransitionDataset:
    """The rewards as recorded."""
    return dataset


def normalize(dataset: TransitionDataset) -> TransitionDataset:
    """Mean 0 and standard deviation 1: Adroit in Diffusion-QL (Wang et al. 2023) and
    Consistency-AC (Ding & Jin 2024).
    """
    std = dataset.rewards.std()
    if not std > 0:
        raise InputError("all rewards are equal, expected some spread; use the reward 'none'")
    return dataset.replace(rewards=(dataset.rewards - dataset.rewards.mean()) / std)


def iql_locomotion(dataset: TransitionDataset) -> TransitionDataset:
    """1000 r / (best return - worst return): MuJoCo locomotion in IQL (Kostrikov et al. 2022)."""
    returns = dataset.episode_returns()
    spread = float(returns.max() - returns.min())
    if spread <= 0:
        raise InputError("all episodes return the same, expected a spread; use the reward 'none'")
    return dataset.replace(rewards=dataset.rewards * (1000.0 / spread))


def iql_antmaze(dataset: TransitionDataset) -> TransitionDataset:
    """r - 1, a cost for every step before the goal: AntMaze in IQL (Kostrikov et al. 2022)."""
    return dataset.replace(rewards=dataset.rewards - 1.0)


def cql_antmaze(dataset: TransitionDataset) -> TransitionDataset:
    """4 (r - 0.5): AntMaze in CQL (Kumar et al. 2020), Diffusion-QL and Consistency-AC."""
    return dataset.replace(rewards=4.0 * (dataset.rewards - 0.5))


REWARDS: dict[str, Callable[[TransitionDataset], TransitionDataset]] = {
    transform.__name__: transform
    for transform in (none, normalize, iql_locomotion, iql_antmaze, cql_antmaze)
}


def transform_rewards(dataset: TransitionDataset, name: str) -> TransitionDataset:
    """The dataset with the rewards transformed by `REWARDS[name]`.

    Raises:
        InputError: no transform of that name, or rewards that it cannot scale.
    """
    if name not in REWARDS:
        raise InputError(f"no reward transform {name!r}, expected one of {', '.join(REWARDS)}")
    return REWARDS[name](dataset)
