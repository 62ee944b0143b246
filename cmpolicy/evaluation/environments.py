"""Gymnasium environments by id."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import gymnasium
from gymnasium.spaces import Box
from gymnasium.wrappers import FilterObservation, FlattenObservation

from cmpolicy.errors import InputError

ROBOTICS = ("Adroit", "AntMaze", "PointMaze", "FrankaKitchen")
GOAL_KEYS = ["desired_goal", "observation"]  # achieved_goal repeats what observation holds


def make_env(env_id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """The environment `env_id`, with flat observations.

    Observations that are dictionaries with a goal become one vector of desired goal and
    observation, in the order of `datasets.minari_source`.

    Raises:
        InputError: if there is no such environment, its package is missing, or its spaces are
            not bounded boxes of actions and vectors of observations.
    """
    if env_id.startswith(ROBOTICS):
        if importlib.util.find_spec("gymnasium_robotics") is None:
            raise InputError(
                f"environment {env_id} needs gymnasium-robotics: pip install 'cmpolicy[robotics]'"
            )
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
    try:
        with warnings.catch_warnings():
            # D4RL's data belongs to -v4 on purpose; that a newer version exists is no news.
            warnings.filterwarnings("ignore", message=".*is out of date.*")
            env = gymnasium.make(env_id, **kwargs)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot make environment {env_id!r}: {reason}") from error
    if isinstance(env.observation_space, gymnasium.spaces.Dict):
        env = FlattenObservation(FilterObservation(env, GOAL_KEYS))
    check_spaces(env_id, env)
    return env


def check_spaces(env_id: str, env: gymnasium.Env[Any, Any]) -> None:
    """Raise InputError unless observations and actions are vectors, the actions bounded."""
    for name, space in (("observation", env.observation_space), ("action", env.action_space)):
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise InputError(f"{env_id} has the {name} space {space}, expected a vector (Box)")
    actions = env.action_space
    if not (isinstance(actions, Box) and actions.is_bounded()):
        raise InputError(f"{env_id} has unbounded actions {actions}, expected finite bounds")
