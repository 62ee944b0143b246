"""Whole episodes of a policy, several environments stepped together."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from cmpolicy.array_types import FloatArray
from cmpolicy.policy.action_chunks import ChunkQueue, Window
from cmpolicy.training.protocols import EvaluationFailed

# (N, obs_dim) → (N, action_dim), or (R, N, …); with a window both are those of all its steps
Act = Callable[[FloatArray], FloatArray]
MakeEnv = Callable[[], gymnasium.Env[Any, Any]]

log = logging.getLogger("cmpolicy")

PLAIN = Window()


class EnvironmentFailure(EvaluationFailed):
    """An environment raised an exception, hung, ended its process, or gave what is no reward."""


@dataclass(frozen=True)
class Episodes:
    """Outcome of a number of episodes.

    Attributes:
        returns: (episodes,) undiscounted sums of rewards; NaN where a reward or an observation was
            not finite, which ends an episode. The statistics are those of the others.
        lengths: (episodes,) numbers of steps.
    """

    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]

    @property
    def valid(self) -> npt.NDArray[np.float64]:
        """The returns that are numbers."""
        return self.returns[np.isfinite(self.returns)]

    @property
    def failed(self) -> int:
        """Number of episodes that a value which was not finite ended."""
        return len(self.returns) - len(self.valid)

    @property
    def mean_return(self) -> float:
        """Mean over valid episodes; NaN if there are none."""
        return float(self.valid.mean()) if len(self.valid) else float("nan")

    @property
    def standard_error(self) -> float:
        """Standard error of the mean return; 0 for a single episode."""
        n = len(self.valid)
        return float(self.valid.std(ddof=1) / n**0.5) if n > 1 else 0.0


class Episode:
    """An episode in progress.

    Attributes:
        observation: (obs_dim,) float32, the last one that was finite; None before the first.
        total, length: the sum of the rewards, and the number of steps so far; a reward or an
            observation that is not finite makes the sum NaN and ends the episode.
        reward: the last one.
        over, terminated: True after the last step; if the environment ended it, not a time limit.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int) -> None:
        self.env, self.seed = env, seed
        self.total, self.reward, self.length = 0.0, 0.0, 0
        self.over = self.terminated = False
        with self.named_failure():
            observation = self.checked(env.reset(seed=seed)[0])
        self.observation: FloatArray = np.nan_to_num(observation)
        self.end_unless_finite(observation)

    @property
    def failed(self) -> bool:
        """Tell whether a value was not finite."""
        return not np.isfinite(self.total)

    def step(self, action: FloatArray) -> None:
        """Do one action."""
        with self.named_failure():
            observation, reward, terminated, truncated, _ = self.env.step(action)
            observation, self.reward = self.checked(observation), number(reward)
        self.length += 1
        self.total += self.reward
        self.terminated = bool(terminated)
        self.over = self.terminated or bool(truncated)
        self.end_unless_finite(observation)
        if not self.failed:
            self.observation = observation

    def checked(self, observation: Any) -> FloatArray:
        """Take an observation as float32; ValueError if it is not of the declared shape."""
        array, declared = np.array(observation, np.float32), self.env.observation_space.shape
        if array.shape != declared:
            raise ValueError(f"the observation has shape {array.shape}, declared is {declared}")
        return array

    def end_unless_finite(self, observation: FloatArray) -> None:
        """End the episode with NaN as its return where a value is not finite."""
        if self.failed or not np.isfinite(observation).all():
            self.total = float("nan")
        self.over = self.over or self.failed

    @contextmanager
    def named_failure(self) -> Iterator[None]:
        """Say of an exception in which environment, episode and step it was raised."""
        try:
            yield
        except (Exception, SystemExit) as error:
            spec = self.env.unwrapped.spec
            name = spec.id if spec else type(self.env.unwrapped).__name__
            reason = " ".join(str(error).split())
            where = f"step {self.length + 1}" if hasattr(self, "observation") else "reset"
            raise EnvironmentFailure(
                f"environment {name} failed in {where} of the episode of seed {self.seed}: "
                f"{type(error).__name__}: {reason}"
            ) from error


def number(reward: Any) -> float:
    """Take a reward as a number, from an array of one entry too.

    Raises:
        ValueError: for more or fewer entries.
    """
    if np.size(reward) != 1:
        raise ValueError(f"the reward has shape {np.shape(reward)}, expected a number")
    return float(np.asarray(reward).item())


def close(env: gymnasium.Env[Any, Any]) -> None:
    """Close an environment; one that has failed may well fail in this too."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        log.warning("an environment could not be closed (%s: %s)", type(error).__name__, error)


def make_environments(make_env: MakeEnv, count: int) -> list[gymnasium.Env[Any, Any]]:
    """Make `count` instances, or as many as can exist at once, at least one."""
    envs = [make_env()]
    while len(envs) < count:
        try:
            envs.append(make_env())
        except Exception as error:  # a port, a licence, a robot
            log.warning(
                "%d of %d environments can exist at once (%s: %s): the episodes run one after "
                "the other; eval.parallel=%d leaves out the attempt",
                *(len(envs), count, type(error).__name__, error, len(envs)),
            )
            break
    return envs


def roll_out(
    act: Act,
    make_env: MakeEnv,
    episodes: int,
    seed: int,
    parallel: int | None = None,
    window: Window = PLAIN,
) -> Episodes:
    """Play `episodes` episodes, `parallel` at a time; all at once if that is None.

    Episode i is seeded with `seed` + i. Each counts once, so long ones count as often as short
    ones. One call of `act` a step serves all environments, or with a `window` one a chunk.

    Raises:
        EnvironmentFailure: names the environment and the step.
    """
    [rolled] = roll_out_seeds(for_one_seed(act), make_env, episodes, [seed], parallel, window)
    return rolled


def for_one_seed(act: Act) -> Act:
    """Let what acts for one seed act as `roll_out_seeds` asks, with an axis of one seed."""
    return lambda obs: act(obs[0])[None]


def roll_out_seeds(
    act: Act,
    make_env: MakeEnv,
    episodes: int,
    seeds: Sequence[int],
    parallel: int | None = None,
    window: Window = PLAIN,
) -> list[Episodes]:
    """`roll_out` for each of R seeds, the environments of all stepped together.

    One call of `act` a step, (R, N, obs_dim) → (R, N, action_dim), serves all; N is `episodes`,
    or fewer if there are fewer environments.
    """
    shape = (len(seeds), episodes)
    returns, lengths = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    order = list(np.ndindex(shape))
    envs = make_environments(make_env, min(parallel or len(order), len(order)))
    try:
        for begin in range(0, len(order), len(envs)):
            together = order[begin : begin + len(envs)]
            played = [
                Episode(env, seeds[row] + column)
                for env, (row, column) in zip(envs, together, strict=False)
            ]
            acting = functools.partial(ChunkQueue(window).act, act)
            _play(acting, played, [row for row, _ in together], len(seeds))
            for place, episode in zip(together, played, strict=True):
                returns[place], lengths[place] = episode.total, episode.length
    finally:
        for env in envs:
            close(env)
    return [Episodes(*rows) for rows in zip(returns, lengths, strict=True)]


def _play(act: Act, episodes: Sequence[Episode], rows: Sequence[int], seeds: int) -> None:
    """Step episodes to their ends; those of one row of `act`'s array stand side by side."""
    places = [(row, rows[:i].count(row)) for i, row in enumerate(rows)]
    width = 1 + max(column for _, column in places)
    observations = np.zeros((seeds, width, len(episodes[0].observation)), np.float32)
    for place, episode in zip(places, episodes, strict=True):
        observations[place] = episode.observation
    while not all(episode.over for episode in episodes):
        actions = act(observations)
        for place, episode in zip(places, episodes, strict=True):
            if not episode.over:
                episode.step(actions[place])
                observations[place] = episode.observation
