"""Scores by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from cmpolicy.array_types import FloatArray
from cmpolicy.datasets import reference_scores
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.rollout import Act, Episodes
from cmpolicy.rl.score import NO_SCORE, Score, evaluate_agent, evaluate_agents, score_of

EPISODES = Episodes(np.array([10.0, 30.0]), np.array([4, 8]))


def test_a_normalised_score_by_hand() -> None:
    score = score_of(EPISODES, (-20.0, 80.0))
    # mean 20, spread √200, error √200/√2 = 10; 100·(20 + 20)/100 and 100·10/100
    assert score == Score(20.0, pytest.approx(10.0), 40.0, pytest.approx(10.0), 2, 6.0)
    assert score.headline == 40.0
    assert str(score) == "normalised score 40.0 ± 10.0 (return 20.0 ± 10.0 over 2 episodes)"


def test_d4rls_hopper() -> None:
    references = reference_scores("hopper-medium")
    assert references is not None
    score = score_of(Episodes(np.array([1569.27]), np.array([1000])), tuple(references))
    assert score.normalized_score == pytest.approx(
        100 * (1569.27 + 20.272305) / (3234.3 + 20.272305)
    )


def test_without_references_the_return_is_the_headline() -> None:
    score = score_of(EPISODES, None)
    assert (score.normalized_score, score.score_standard_error, score.headline) == (
        None,
        None,
        20.0,
    )
    assert str(score) == "return 20.0 ± 10.0 over 2 episodes"


def test_an_evaluation_with_an_episode_that_failed_is_never_best() -> None:
    score = score_of(Episodes(np.array([10.0, np.nan, 30.0]), np.array([4, 1, 7])), (-20.0, 80.0))
    assert (score.mean_return, score.normalized_score) == (20.0, 40.0)
    assert (score.failed_episodes, score.episodes, score.headline) == (1, 3, -math.inf)
    assert "over 3 episodes, 1 of them NOT FINITE and left out" in str(score)
    assert (NO_SCORE.headline, str(NO_SCORE)) == (0.0, "no score: trained without an environment")


def noisy(generator: torch.Generator) -> Act:
    def act(observations: FloatArray) -> FloatArray:
        noise: FloatArray = torch.randn(len(observations), 3, generator=generator).numpy()
        return noise.clip(-1, 1)

    return act


def test_an_evaluation_depends_on_its_seed_and_on_nothing_else() -> None:
    def evaluate(seed: int) -> Score:
        return evaluate_agent(noisy, Environment("Hopper-v5"), (0.0, 100.0), 3, seed)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = evaluate(5)
    assert torch.equal(
        torch.get_rng_state(), before
    )  # how often a run is evaluated changes nothing
    torch.manual_seed(1)
    np.random.default_rng(3).normal()
    assert evaluate(5) == first
    assert evaluate(6) != first
    assert first.normalized_score == first.mean_return
    assert first.episodes == 3


def test_seeds_evaluated_together_have_the_scores_of_each() -> None:
    env, references, seeds = Environment("Hopper-v5"), (0.0, 100.0), (5, 40, 6)

    def each_its_own(generators: Sequence[torch.Generator]) -> Act:
        acts = [noisy(generator) for generator in generators]
        return lambda obs: np.stack([act(o) for act, o in zip(acts, obs, strict=True)])

    together = evaluate_agents(each_its_own, env, references, 3, seeds)
    assert together == [evaluate_agent(noisy, env, references, 3, seed) for seed in seeds]
    assert len({score.mean_return for score in together}) == 3
