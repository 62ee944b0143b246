"""Gymnasium environments with flat observations, as a dataset has them."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box
from gymnasium.wrappers import FilterObservation, FlattenObservation

from cmpolicy.errors import InputError
from cmpolicy.rl.action_space import with_policy_actions

ROBOTICS = ("Adroit", "AntMaze", "PointMaze", "FrankaKitchen")


@dataclass(frozen=True)
class Environment:
    """A recipe for an environment.

    Attributes:
        id: Gymnasium's.
        spec: JSON of a full `EnvSpec`, as Minari records it, in place of the id's defaults.
        layout: how an observation that is a dictionary becomes a vector: ``minari`` puts all of
            it end to end by sorted key; ``d4rl`` has position and observation, no goal.
        max_episode_steps: where episodes are cut; None for where the id or the spec has it.
    """

    id: str
    spec: str | None = None
    layout: str = "minari"
    max_episode_steps: int | None = None

    def make(self, **kwargs: Any) -> gymnasium.Env[Any, Any]:
        """The environment.

        Raises:
            InputError: if there is no such environment, its package is missing, or its spaces
                are not a vector of observations and bounded vectors of actions.
        """
        if self.id.startswith(ROBOTICS):
            register_robotics(self.id)
        try:
            with warnings.catch_warnings():
                # D4RL's data belongs to -v4 on purpose; that a newer version exists is no news.
                warnings.filterwarnings("ignore", message=".*is out of date.*")
                spec = EnvSpec.from_json(self.spec) if self.spec else self.id
                env = gymnasium.make(spec, max_episode_steps=self.max_episode_steps, **kwargs)
        except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"cannot make environment {self.id!r}: {reason}") from error
        if isinstance(env.observation_space, gymnasium.spaces.Dict):
            if self.layout == "d4rl":
                env = FilterObservation(env, ["achieved_goal", "observation"])
            env = FlattenObservation(env)
        check_spaces(self.id, env)
        return with_policy_actions(self.id, env)


def register_robotics(env_id: str) -> None:
    """Make gymnasium-robotics' environments known.

    Raises:
        InputError: if the package is not there.
    """
    if importlib.util.find_spec("gymnasium_robotics") is None:
        raise InputError(
            f"environment {env_id} needs gymnasium-robotics: pip install 'cmpolicy[robotics]'"
        )
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)


def check_spaces(env_id: str, env: gymnasium.Env[Any, Any]) -> None:
    """Raise InputError unless observations are vectors."""
    space = env.observation_space
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise InputError(f"{env_id} has the observation space {space}, expected a vector (Box)")
