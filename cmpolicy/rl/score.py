"""Scores of an agent in its environment."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from cmpolicy.errors import InputError
from cmpolicy.policy.action_chunks import Window
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.rollout import (
    PLAIN,
    Act,
    EnvironmentFailure,
    Episodes,
    for_one_seed,
    roll_out_seeds,
)
from cmpolicy.rl.rollout_process import roll_out_apart

log = logging.getLogger("cmpolicy")


@dataclass(frozen=True)
class Score:
    """Outcome of an evaluation.

    Attributes:
        mean_return, return_standard_error: in the environment's reward.
        normalized_score, score_standard_error: 0 is random and 100 the reference expert's mean
            return; None where no reference is known.
        episodes: how many, and `mean_length` their mean number of steps.
        failed_episodes: those with a reward or an observation that was not finite; not counted in
            the means, and an evaluation that has any is never the best.
        failure: what ended the evaluation, of which nothing else is known then.
    """

    mean_return: float
    return_standard_error: float
    normalized_score: float | None
    score_standard_error: float | None
    episodes: int
    mean_length: float
    failed_episodes: int = 0
    failure: str | None = None

    def __str__(self) -> str:
        if self.episodes == 0:
            return f"no score: {self.failure or 'trained without an environment'}"
        error = f"± {self.return_standard_error:.1f} over {self.episodes} episodes"
        if self.failed_episodes:
            error += f", {self.failed_episodes} of them NOT FINITE and left out"
        text = f"return {self.mean_return:.1f} {error}"
        if self.normalized_score is None:
            return text
        score, score_error = self.normalized_score, self.score_standard_error
        return f"normalised score {score:.1f} ± {score_error:.1f} ({text})"

    @property
    def headline(self) -> float:
        """What checkpoints are compared by: the normalised score, or else the return."""
        if self.failed_episodes:
            return -math.inf
        if self.episodes == 0:
            return 0.0
        return self.mean_return if self.normalized_score is None else self.normalized_score


def score_of(episodes: Episodes, references: tuple[float, float] | None) -> Score:
    """Summarise episodes; `references` are D4RL's (minimum, maximum) return of the task."""
    mean, error = episodes.mean_return, episodes.standard_error
    low, high = references or (0.0, 0.0)
    return Score(
        mean_return=mean,
        return_standard_error=error,
        normalized_score=100 * (mean - low) / (high - low) if references else None,
        score_standard_error=100 * error / (high - low) if references else None,
        episodes=len(episodes.returns),
        mean_length=float(episodes.lengths.mean()),
        failed_episodes=episodes.failed,
    )


NO_SCORE = Score(math.nan, math.nan, None, None, episodes=0, mean_length=0.0)


def no_score(error: EnvironmentFailure) -> Score:
    """Give the outcome of a final evaluation that failed, with a warning."""
    log.warning("the final evaluation failed: %s", error)
    return replace(NO_SCORE, failure=str(error))


@contextmanager
def failures_named() -> Iterator[None]:
    """Within, an environment that was made once and cannot be made again is one that failed."""
    try:
        yield
    except InputError as error:
        raise EnvironmentFailure(str(error)) from error


def play(
    act: Act, env: Environment, episodes: int, seeds: Sequence[int], window: Window
) -> list[Episodes]:
    """Roll out for each of R seeds; in a process of its own if `env` has a timeout.

    Raises:
        EnvironmentFailure: names the environment, the episode and the step.
    """
    if env.timeout is not None:
        return roll_out_apart(act, env, episodes, seeds, window)
    return roll_out_seeds(act, env.make, episodes, seeds, env.parallel, window)


def evaluate_agent(
    act_with: Callable[[torch.Generator], Act],
    env: Environment,
    references: tuple[float, float] | None,
    episodes: int,
    seed: int,
    device: torch.device | str = "cpu",
    window: Window = PLAIN,
) -> Score:
    """Roll out and score; the policy's noise has a generator of its own, seeded by `seed`."""
    generator = torch.Generator(device=device).manual_seed(seed)
    [rolled] = play(for_one_seed(act_with(generator)), env, episodes, [seed], window)
    return score_of(rolled, references)


def evaluate_agents(
    act_with: Callable[[Sequence[torch.Generator]], Act],
    env: Environment,
    references: tuple[float, float] | None,
    episodes: int,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    window: Window = PLAIN,
) -> list[Score]:
    """`evaluate_agent` for each of R seeds; one call of what acts for all, (R, N, …), a step."""
    generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
    rolled = play(act_with(generators), env, episodes, seeds, window)
    return [score_of(each, references) for each in rolled]
