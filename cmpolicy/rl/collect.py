"""Episodes of a policy, recorded as a dataset."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from cmpolicy.array_types import FloatArray
from cmpolicy.datasets.dict_observations import vector_at
from cmpolicy.datasets.reference_scores import reference_scores
from cmpolicy.datasets.transitions import DatasetInfo, TransitionDataset
from cmpolicy.datasets.writing import About
from cmpolicy.errors import InputError
from cmpolicy.rl.environments import Environment, FlattenDict
from cmpolicy.rl.rollout import Act, roll_out

log = logging.getLogger("cmpolicy")


@dataclass
class RecordedEpisode:
    """An episode in Minari's alignment: T+1 observations, T of everything else."""

    seed: int | None
    observations: list[FloatArray]
    actions: list[FloatArray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminations: list[bool] = field(default_factory=list)

    @property
    def finite(self) -> bool:
        """Whether all of it is numbers."""
        columns: tuple[Any, ...] = (self.observations, self.rewards)
        return all(bool(np.isfinite(column).all()) for column in columns)


class Recorder(gymnasium.Wrapper[FloatArray, FloatArray, FloatArray, FloatArray]):
    """Records into `episodes`, one more at each reset."""

    def __init__(self, env: gymnasium.Env[Any, Any], episodes: list[RecordedEpisode]) -> None:
        super().__init__(env)
        self.episodes = episodes

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[FloatArray, Any]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.current = RecordedEpisode(seed, [np.array(observation, np.float32)])
        self.episodes.append(self.current)
        return observation, info

    def step(self, action: FloatArray) -> tuple[FloatArray, Any, bool, bool, Any]:
        """Record an action and what it led to."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.current.observations.append(np.array(observation, np.float32))
        self.current.actions.append(np.array(action, np.float32))
        self.current.rewards.append(float(np.asarray(reward).item()))
        self.current.terminations.append(bool(terminated))
        return observation, reward, bool(terminated), bool(truncated), info


def record_episodes(
    act: Act, env: Environment, episodes: int, seed: int
) -> tuple[TransitionDataset, About]:
    """Play episodes as `roll_out` does, episode i seeded with `seed` + i.

    Returns the transitions, and what is known of the environment. Episodes with a value that is
    not finite are left out, with a warning.

    Raises:
        InputError: the environment cannot be made, or no episode is left.
        EnvironmentFailure: names the environment and the step.
    """
    env, probe = env.probed()
    about = about_environment(env, probe)
    probe.close()
    played: list[RecordedEpisode] = []
    roll_out(act, lambda: Recorder(env.make(), played), episodes, seed, env.parallel)
    played.sort(key=lambda episode: episode.seed or 0)
    kept = [episode for episode in played if episode.finite]
    if len(kept) < len(played):
        log.warning("%d episodes were not finite and are left out", len(played) - len(kept))
    if not kept:
        raise InputError("no episode was finite, so there is nothing to write")
    info = DatasetInfo("collected", "numpy", env_id=env.id, env_kwargs=env.kwargs)
    return TransitionDataset.from_episodes(kept, info=info), about


def about_environment(env: Environment, made: gymnasium.Env[Any, Any]) -> About:
    """Describe an environment, given an instance that its recipe made."""
    space: Any = made.action_space
    about = About(space.low.tolist(), space.high.tolist(), references=reference_scores(env.id))
    if isinstance(made, gymnasium.Wrapper):
        flattened: Any = made
        while isinstance(flattened, gymnasium.Wrapper) and not isinstance(flattened, FlattenDict):
            flattened = flattened.env
        if isinstance(flattened, FlattenDict):
            spaces = flattened.env.observation_space
            sizes = {key: vector_at(spaces, key).shape[0] for key in flattened.keys}
            about = dataclasses.replace(about, observation_sizes=sizes)
    if env.wrappers:
        log.warning(
            "the wrappers that the environment was recorded with are not written: give env.id= "
            "of an environment that has them when training"
        )
        return about
    limit = env.max_episode_steps
    return dataclasses.replace(about, env_id=env.id, env_kwargs=env.kwargs, max_episode_steps=limit)
