"""Gymnasium environments as policies see them: vectors of observations and bounded actions."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import shlex
import sys
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.envs.registration import registry
from gymnasium.spaces import Box, Dict

from cmpolicy.array_types import FloatArray
from cmpolicy.datasets.dict_observations import chosen_keys, vector_at
from cmpolicy.datasets.ogbench import SUCCESS, register_ogbench
from cmpolicy.errors import InputError, override
from cmpolicy.rl.action_space import with_policy_actions
from cmpolicy.rl.rollout import EnvironmentFailure
from cmpolicy.rl.success import SuccessReward
from cmpolicy.training.random_state import preserved_random_state

log = logging.getLogger("cmpolicy")

ROBOTICS = ("Adroit", "AntMaze", "PointMaze", "FrankaKitchen")
OGBENCH = (
    *("cube-", "scene-", "puzzle-", "pointmaze-", "antmaze-", "humanoidmaze-", "antsoccer-"),
    *("visual-", "powderworld-"),
)
LOADERS = ("GymV21", "GymV26")  # make what their keyword arguments name
NAME_ERRORS = (gymnasium.error.NameNotFound, gymnasium.error.NamespaceNotFound)
DEFAULT_TIME_LIMIT = 1000  # steps, where neither the environment nor the user says one


@dataclass(frozen=True)
class Environment:
    """Recipe for an environment.

    Attributes:
        id: Gymnasium's; with a module, `module:Id`, which is imported.
        kwargs: keyword arguments of `gymnasium.make`.
        wrappers: recorded ones, as ``{"name": …, "kwargs": …}``: names in `gymnasium.wrappers`.
        observation_keys: entries of an observation that is a dictionary, in the order in which
            they form the vector; None for all in the space's own order.
        max_episode_steps: where episodes are cut; None for the registered limit.
        parallel: how many instances exist at once in evaluations; None for one an episode.
        timeout: seconds within which it is made, reset or does a step, in a process of its own;
            None for evaluations in this process.
        from_data: a dataset or a run directory names it, not the user: nothing is imported.
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: list[dict[str, Any]] = field(default_factory=list)
    observation_keys: list[str] | None = None
    max_episode_steps: int | None = None
    parallel: int | None = None
    timeout: float | None = None
    from_data: bool = False

    def make(self, **kwargs: Any) -> gymnasium.Env[Any, Any]:
        """Make an instance; torch's random numbers stay as they are.

        Raises:
            InputError: if there is no such environment, its package is missing, or its spaces
                are not a vector of observations and a bounded vector of actions.
            EnvironmentFailure: for an exception of its own code.
        """
        self.refuse_modules_of_data()
        with preserved_random_state():
            return self._made(kwargs)

    def _made(self, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
        if self.id.startswith(ROBOTICS):
            register_robotics(self.id)
        if self.id.startswith(OGBENCH):
            register_ogbench(f"environment {self.id}")
        try:
            with warnings.catch_warnings():
                # D4RL's data belong to -v4 on purpose: that a newer version exists is no news.
                warnings.filterwarnings("ignore", message=".*is out of date.*")
                options = {**self.kwargs, **kwargs}
                env = gymnasium.make(self.id, max_episode_steps=self.max_episode_steps, **options)
                for wrapper in self.wrappers:
                    env = recorded_wrapper(wrapper["name"])(env, **(wrapper.get("kwargs") or {}))
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise self.explained(error) from error
        if isinstance(env.observation_space, Dict):
            env = FlattenDict(env, self.observation_keys)
        elif len(env.observation_space.shape or ()) == 3:
            env = gymnasium.wrappers.FlattenObservation(env)
        check_spaces(self.id, env)
        return with_policy_actions(self.id, env)

    def explained(self, error: BaseException) -> InputError | EnvironmentFailure:
        """Tell why it cannot be made: a wrong input, or a failure of its own code."""
        reason = " ".join(str(error).split())
        cause = error  # Gymnasium raises another of the same kind
        while isinstance(cause.__cause__, type(error)):
            cause = cause.__cause__
        if not is_wrong_input(cause):
            said = " ".join(str(cause).split())
            if module_of(cause) in ("OpenGL", "mujoco") and "MUJOCO_GL" in os.environ:
                said += f"; MUJOCO_GL={os.environ['MUJOCO_GL']} does not work here, try egl or none"
            return EnvironmentFailure(
                f"environment {self.id} failed while it was made: {type(cause).__name__}: {said}"
            )
        if isinstance(error, NAME_ERRORS) and ":" not in self.id:
            reason = (
                reason.rstrip(".") + f"; give env.id=MODULE:{self.id}, where MODULE registers it"
            )
            reason += ", or env.id=none" if self.from_data else ""
        return InputError(f"cannot make environment {self.id!r}: {reason}")

    def refuse_modules_of_data(self) -> None:
        """Raise InputError if a dataset or a run directory names what would be imported."""
        if self.from_data and (":" in self.id or self.id.startswith(LOADERS)):
            given = shlex.join(["python", *sys.orig_argv[1:]])
            command = f"{given} {override('env.id', self.id)}"
            raise InputError(
                f"the data or the run name the environment {self.id}, whose module would be "
                f"imported; if you trust it, say so: {command}"
            )

    def probed(self) -> tuple[Environment, gymnasium.Env[Any, Any]]:
        """Make an instance, and complete the recipe by what it says of itself.

        Where no time limit is known `DEFAULT_TIME_LIMIT` becomes it, with a warning: an episode
        that never ends would hang an evaluation.
        """
        env = self.make()
        keys = env.keys if isinstance(env, FlattenDict) else None
        limit = self.max_episode_steps
        if limit is None and (env.spec is None or env.spec.max_episode_steps is None):
            limit = DEFAULT_TIME_LIMIT
            log.warning(
                "%s has no time limit: its episodes are cut after %d steps; give "
                "env.max_episode_steps for another limit",
                *(self.id, limit),
            )
        return replace(self, observation_keys=keys, max_episode_steps=limit), env


def registered_limit(env_id: str | None) -> int | None:
    """Look up the time limit of a registered environment; None where there is none.

    The part before a colon is imported, as `gymnasium.make` does: for ids of the user alone.

    Raises:
        InputError: there is no such module.
        EnvironmentFailure: it raises an exception.
    """
    module, _, name = (env_id or "").rpartition(":")
    if name.startswith(ROBOTICS) and importlib.util.find_spec("gymnasium_robotics"):
        register_robotics(name)
    try:
        if module:
            with preserved_random_state():
                importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"env.id={env_id}: {error}; expected MODULE:Id, where MODULE is a file of the working "
            "directory or an installed package"
        ) from error
    except (Exception, SystemExit) as error:
        raise EnvironmentFailure(
            f"{module} of env.id={env_id} failed while it was imported: {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error
    return registry[name].max_episode_steps if name in registry else None


def is_wrong_input(error: BaseException) -> bool:
    """Tell whether a missing package or Gymnasium's own checks keep an environment from being made.

    An exception that was raised further in is a failure of the environment's code.
    """
    expected = isinstance(error, gymnasium.error.Error | ModuleNotFoundError)
    return expected or module_of(error) in ("gymnasium", "cmpolicy")


def module_of(error: BaseException) -> str:
    """Name the package in which an exception was raised."""
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    module = innermost.tb_frame.f_globals.get("__name__", "") if innermost is not None else ""
    return str(module).partition(".")[0]


class FlattenDict(gymnasium.ObservationWrapper[FloatArray, Any, Any]):
    """Observations of a dictionary as one vector, as `datasets.dict_observations` puts them.

    A picture, flat as well, comes before the vectors.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], keys: list[str] | None) -> None:
        super().__init__(env)
        space = cast("Dict", env.observation_space)
        boxes = {key: vector_at(space, key) for key in chosen_keys(space.spaces, keys)}
        for key, box in boxes.items():
            if not isinstance(box, Box) or len(box.shape) not in (1, 3):
                raise InputError(f"observation {key!r} is {box}, expected a vector (Box)")
        self.keys = sorted(boxes, key=lambda key: -len(boxes[key].shape))
        low, high = (
            np.concatenate([getattr(boxes[key], end).ravel() for key in self.keys])
            for end in ("low", "high")
        )
        self.observation_space = Box(low, high, dtype=low.dtype.type)

    def observation(self, observation: Any) -> FloatArray:
        """Flatten."""
        return np.concatenate([np.ravel(vector_at(observation, key)) for key in self.keys])


def recorded_wrapper(name: str) -> Any:
    """Find a wrapper of observations, actions or rewards in Gymnasium; data name no others.

    Raises:
        InputError: for another name.
    """
    if name == SUCCESS:
        return SuccessReward
    kinds = (gymnasium.ObservationWrapper, gymnasium.ActionWrapper, gymnasium.RewardWrapper)
    wrapper = getattr(gymnasium.wrappers, name, None)
    if isinstance(wrapper, type) and issubclass(wrapper, kinds):
        return wrapper
    raise InputError(
        f"the data were recorded with the wrapper {name}, which is not one of Gymnasium's for "
        "observations, actions or rewards; give env.id= of an environment that has it"
    )


def register_robotics(env_id: str) -> None:
    """Make gymnasium-robotics' environments known.

    Raises:
        InputError: if the package is not there.
    """
    if importlib.util.find_spec("gymnasium_robotics") is None:
        raise InputError(
            f"environment {env_id} needs gymnasium-robotics: pip install -e '.[robotics]'"
        )
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)


def check_spaces(env_id: str, env: gymnasium.Env[Any, Any]) -> None:
    """Raise InputError unless observations are vectors."""
    space = env.observation_space
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise InputError(f"{env_id} has the observation space {space}, expected a vector (Box)")
