"""Scores of an agent in its environment."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cmpolicy.policy.action_chunks import Window
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.rollout import PLAIN, Act, Episodes, roll_out, roll_out_seeds


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
    """

    mean_return: float
    return_standard_error: float
    normalized_score: float | None
    score_standard_error: float | None
    episodes: int
    mean_length: float
    failed_episodes: int = 0

    def __str__(self) -> str:
        if self.episodes == 0:
            return "no score: trained without an environment"
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
    rolled = roll_out(act_with(generator), env.make, episodes, seed, env.parallel, window)
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
    act = act_with(generators)
    rolled = roll_out_seeds(act, env.make, episodes, seeds, env.parallel, window)
    return [score_of(each, references) for each in rolled]
