"""Evaluation environment of a task: which one it is, its spaces and reference returns."""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from gymnasium.spaces import Box, Space

from cmpolicy.agents import Spaces
from cmpolicy.datasets.reference_scores import reference_scores, reference_task
from cmpolicy.datasets.transitions import DatasetInfo, TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.tasks import EnvConfig

log = logging.getLogger("cmpolicy")

NO_ENVIRONMENT = "none"  # as env.id
BOUND_TOLERANCE = 1e-4  # float32 rounding of an action recorded at its bound
D4RL_KEYS = ["achieved_goal", "observation"]  # of dictionaries: D4RL's data have no goal


def refuse_environment_keys(config: RLConfig) -> None:
    """Raise InputError for what cannot be done without an environment."""
    for key, given in (
        ("online.steps", config.online.steps),
        ("seeds", config.seeds),
        ("dataset.future_goals", config.dataset.future_goals),
    ):
        if given:
            raise InputError(f"{key}={given} needs an environment, got env.id={NO_ENVIRONMENT}")


def spaces_of_data(dataset: TransitionDataset) -> Spaces:
    """Take bounds of actions from the data: ±1 where an entry stays within, else its range."""
    low, high = dataset.actions.amin(0), dataset.actions.amax(0)
    within = (low >= -1) & (high <= 1)
    low, high = torch.where(within, -1.0, low), torch.where(within, 1.0, high)
    log.info(
        "no environment: actions are bounded by the data, low %s, high %s",
        *(low.tolist(), high.tolist()),
    )
    return Spaces(dataset.obs_dim, low.tolist(), high.tolist())


def evaluation_env(
    env: EnvConfig,
    info: DatasetInfo,
    parallel: int | None = None,
    timeout: float | None = None,
) -> Environment:
    """Choose the configured environment, else the one recorded with the data, else D4RL's.

    The time limit is the configured one, else the recorded one, else D4RL's; None is left for
    that of the environment's registration.

    Raises:
        InputError: if none is known.
    """
    limit = env.max_episode_steps
    if env.id is None and info.env_id is not None:
        return Environment(
            info.env_id,
            {**info.env_kwargs, **(env.kwargs or {})},
            info.env_wrappers,
            info.observation_keys,
            limit or info.max_episode_steps or env.d4rl_max_episode_steps,
            parallel,
            timeout,
            from_data=True,
        )
    env_id = env.id or env.d4rl_env_id
    if env_id is None:
        raise InputError(
            f"{info.dataset_id} does not say which environment it is from; give env.id=, or "
            "env.id=none to train without evaluations"
        )
    keys = info.observation_keys or (D4RL_KEYS if info.source.startswith("d4rl") else None)
    limit = limit or env.d4rl_max_episode_steps
    return Environment(env_id, env.kwargs or {}, [], keys, limit, parallel, timeout)


def references_of(env_id: str, info: DatasetInfo) -> tuple[float, float] | None:
    """Reference returns recorded with the data, if it is of this task; else D4RL's."""
    same = info.env_id is None or is_same_task(env_id, info)
    if same and info.ref_min_score is not None and info.ref_max_score is not None:
        return info.ref_min_score, info.ref_max_score
    return reference_scores(env_id)


def is_same_task(env_id: str, info: DatasetInfo) -> bool:
    """Whether data belong to an environment, of whatever version."""
    if info.env_id is not None and env_id.rpartition("-v")[0] == info.env_id.rpartition("-v")[0]:
        return True
    task = reference_task(env_id)
    return task is not None and task == reference_task(info.dataset_id)


def fitting_spaces(
    environment: Environment, dataset: TransitionDataset
) -> tuple[Environment, Spaces]:
    """Complete the environment's recipe, and give its spaces, which the dataset is held against."""
    environment, env = environment.probed()
    try:
        check_fits(dataset, env.observation_space, env.action_space)
        actions = cast("Box", env.action_space)  # as `make` has checked
        return environment, Spaces(dataset.obs_dim, actions.low.tolist(), actions.high.tolist())
    finally:
        env.close()


def check_fits(
    dataset: TransitionDataset, observation_space: Space[Any], action_space: Space[Any]
) -> None:
    """Refuse a dataset that was not recorded in an environment with these spaces.

    Raises:
        InputError: a space that is not a vector, another size, or an action further outside its
            bounds than `BOUND_TOLERANCE` (the first one named).
    """
    for name, space, size in (
        ("observations", observation_space, dataset.obs_dim),
        ("actions", action_space, dataset.action_dim),
    ):
        if space.shape != (size,):
            raise InputError(
                f"the dataset's {name} have {size} entries, expected {space.shape} as in the "
                f"environment's {space}; choose the environment that the data was recorded in"
            )
    low, high = (torch.as_tensor(getattr(action_space, end)) for end in ("low", "high"))
    actions = dataset.actions.cpu()
    outside = ((actions < low - BOUND_TOLERANCE) | (actions > high + BOUND_TOLERANCE)).any(1)
    if outside.any():
        row = int(outside.int().argmax())
        raise InputError(
            f"action {row} of the dataset is {actions[row].tolist()}, expected between "
            f"{low.tolist()} and {high.tolist()}; rescale or clip the recorded actions"
        )
