"""Vectorised episodes against a plain loop over single environments."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from cmpolicy.array_types import FloatArray
from cmpolicy.policy.action_chunks import Window
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.rollout import (
    EnvironmentFailure,
    Episodes,
    number,
    roll_out,
    roll_out_seeds,
)

GAINS = np.random.default_rng(0).normal(scale=0.3, size=(11, 3)).astype(np.float32)


def linear(observations: FloatArray) -> FloatArray:
    """A deterministic policy for Hopper, one product a row so that a batch changes nothing."""
    assert observations.dtype == np.float32
    return np.stack([np.tanh(row @ GAINS) for row in observations])


def one_by_one(
    env: gymnasium.Env[Any, Any], episodes: int, seed: int
) -> tuple[list[float], list[int]]:
    returns, lengths = [], []
    for i in range(episodes):
        observation, _ = env.reset(seed=seed + i)
        total, length, done = 0.0, 0, False
        while not done:
            action = linear(np.asarray(observation, np.float32)[None])[0]
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            length += 1
            done = terminated or truncated
        returns.append(total)
        lengths.append(length)
    return returns, lengths


@pytest.mark.parametrize("seed", [0, 123])
def test_hopper_equals_a_plain_loop(seed: int) -> None:
    rolled = roll_out(linear, Environment("Hopper-v5").make, 8, seed)
    returns, lengths = one_by_one(Environment("Hopper-v5").make(), 8, seed)
    assert rolled.lengths.tolist() == lengths
    np.testing.assert_allclose(rolled.returns, returns, rtol=0, atol=1e-9)
    assert len(set(lengths)) > 1  # some environments wait for others


class Countdown(gymnasium.Env[Any, Any]):
    """Ends after as many steps as its seed says, by a terminal if even, by truncation if odd."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = self.length = 5 if seed is None else seed  # on its own: a second episode
        return np.array([float(self.left)]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        over = self.left == 0
        even = self.length % 2 == 0
        return (
            np.array([float(self.left)]),
            10.0 ** (self.length % 5),
            over and even,
            over and not even,
            {},
        )


@pytest.mark.parametrize("episodes", [1, 2, 9])
def test_every_environment_gives_exactly_one_episode(episodes: int) -> None:
    rolled = roll_out(lambda obs: np.zeros((len(obs), 1), np.float32), Countdown, episodes, 1)
    lengths = np.arange(1, episodes + 1)
    assert rolled.lengths.tolist() == lengths.tolist()
    np.testing.assert_array_equal(rolled.returns, lengths * 10.0 ** (lengths % 5))


def test_one_call_a_step_serves_all_environments() -> None:
    seen: list[tuple[int, ...]] = []

    def act(observations: FloatArray) -> FloatArray:
        seen.append(observations.shape)
        return np.zeros((len(observations), 1), np.float32)

    roll_out(act, Countdown, 4, 3)
    assert seen == [(4, 1)] * 6


def test_seeds_together_give_the_episodes_of_each() -> None:
    """To the last bit, where `act` treats rows one by one; with one call a step for all."""
    shapes: list[tuple[int, ...]] = []

    def act(observations: FloatArray) -> FloatArray:
        shapes.append(observations.shape)
        return np.stack([linear(rows) for rows in observations])

    make_env, seeds = Environment("Hopper-v5").make, (7, 100, 0)
    together = roll_out_seeds(act, make_env, 4, seeds)
    for rolled, seed in zip(together, seeds, strict=True):
        alone = roll_out(linear, make_env, 4, seed)
        assert np.array_equal(rolled.returns, alone.returns)
        assert np.array_equal(rolled.lengths, alone.lengths)
    assert set(shapes) == {(3, 4, 11)}
    assert len(shapes) == max(rolled.lengths.max() for rolled in together)


def test_an_environment_whose_episode_is_over_makes_no_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[int] = []
    resets: list[int] = []
    step, reset = Countdown.step, Countdown.reset
    monkeypatch.setattr(Countdown, "step", lambda *a: steps.append(1) or step(*a))
    monkeypatch.setattr(Countdown, "reset", lambda *a, **k: resets.append(1) or reset(*a, **k))
    seen: list[float] = []

    def act(observations: FloatArray) -> FloatArray:
        seen.append(float(observations[0, 0]))
        return np.zeros((len(observations), 1), np.float32)

    rolled = roll_out(act, Countdown, 4, 2)
    assert len(steps) == rolled.lengths.sum() == 2 + 3 + 4 + 5
    assert len(resets) == 4
    assert seen == [2, 1, 0, 0, 0]


@pytest.mark.parametrize("parallel", [1, 2, 3, 5])
def test_fewer_environments_than_episodes_give_the_same_episodes(parallel: int) -> None:
    made: list[Any] = []

    def make_env() -> Countdown:
        made.append(Countdown())
        return made[-1]

    def act(observations: FloatArray) -> FloatArray:
        assert observations.shape[1] <= parallel
        return np.zeros((*observations.shape[:-1], 1), np.float32)

    together = roll_out_seeds(act, make_env, 4, (1, 7, 3), parallel)
    assert len(made) == parallel
    for rolled, seed in zip(together, (1, 7, 3), strict=True):
        lengths = np.arange(seed, seed + 4)
        assert rolled.lengths.tolist() == lengths.tolist()
        np.testing.assert_array_equal(rolled.returns, lengths * 10.0 ** (lengths % 5))


def zero(observations: FloatArray) -> FloatArray:
    return np.zeros((len(observations), 1), np.float32)


def test_where_one_instance_can_exist_episodes_are_played_one_after_the_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("cmpolicy"), "propagate", True)

    class Single(Countdown):
        alive = False

        def __init__(self) -> None:
            if Single.alive:
                raise RuntimeError("port 2000 is already in use")
            Single.alive = True

        def close(self) -> None:
            Single.alive = False

    for parallel in (None, 4):
        caplog.clear()
        assert roll_out(zero, Single, 4, 2, parallel).lengths.tolist() == [2, 3, 4, 5]
        assert "1 of 4 environments can exist at once (RuntimeError: port 2000" in caplog.text
        assert "eval.parallel=1" in caplog.text
    caplog.clear()
    assert roll_out(zero, Single, 4, 2, 1).lengths.tolist() == [2, 3, 4, 5]
    assert caplog.text == ""
    Single.alive = True
    with pytest.raises(RuntimeError, match="port 2000"):
        roll_out(zero, Single, 4, 2)


@pytest.mark.parametrize(
    "reward", [np.array([2.0]), np.array([[2]]), np.float32(2), 2, np.array(2.0), True]
)
def test_a_reward_is_taken_as_a_number(reward: Any) -> None:
    assert number(reward) == float(np.asarray(reward).item())


def failing(method: str, value: Any) -> Callable[[], Countdown]:
    """A countdown whose episode of seed 3 goes wrong in its second step, or in its reset."""

    class Failing(Countdown):
        def reset(self, **options: Any) -> Any:
            observation, info = super().reset(**options)
            if method == "reset" and self.length == 3:
                observation = value() if callable(value) else observation * value
            return observation, info

        def step(self, action: Any) -> Any:
            observation, reward, *rest = super().step(action)
            if self.length == 3 and self.left == 1:
                if callable(value):
                    value()
                observation = observation * value if method == "observation" else observation
                reward = value if method == "reward" else reward
            return observation, reward, *rest

    return Failing


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("method", "length"), [("reward", 2), ("observation", 2), ("reset", 0)])
def test_an_episode_with_a_value_that_is_not_finite_is_counted_and_left_out(
    method: str, length: int, value: float
) -> None:
    seen: list[FloatArray] = []

    def act(observations: FloatArray) -> FloatArray:
        seen.append(observations.copy())
        return zero(observations)

    rolled = roll_out(act, failing(method, value), 3, 2)
    assert (rolled.failed, rolled.lengths.tolist()) == (1, [2, length, 4])
    assert np.isnan(rolled.returns).tolist() == [False, True, False]
    assert rolled.mean_return == (2 * 10.0**2 + 4 * 10.0**4) / 2
    assert rolled.standard_error == pytest.approx((4 * 10.0**4 - 2 * 10.0**2) / 2)
    assert np.isfinite(seen).all()  # the policy sees none of it
    alone = roll_out(act, failing(method, value), 1, 3)
    assert (alone.failed, alone.standard_error) == (1, 0.0)
    assert np.isnan(alone.mean_return)


def broken() -> None:
    raise ValueError("no\nroad")


@pytest.mark.parametrize(
    ("method", "value", "said"),
    [
        ("step", broken, "step 2 of the episode of seed 3: ValueError: no road"),
        ("reset", broken, "reset of the episode of seed 3: ValueError: no road"),
        ("reward", np.zeros(2), r"step 2 of .*: the reward has shape \(2,\), expected a number"),
        ("reward", None, "step 2 of the episode of seed 3: TypeError"),
    ],
)
def test_an_exception_says_in_which_environment_episode_and_step(
    method: str, value: Any, said: str
) -> None:
    with pytest.raises(EnvironmentFailure, match=f"^environment Failing failed in {said}") as error:
        roll_out(zero, failing(method, value), 3, 2)
    assert not isinstance(error.value, ValueError)  # which would be called wrong input
    assert "\n" not in str(error.value)


class Misdeclared(gymnasium.Env[FloatArray, FloatArray]):
    """Declares three entries and gives `given`, at the reset or at the first step."""

    observation_space = Box(-1, 1, (3,))
    action_space = Box(-1, 1, (1,))

    def __init__(self, at_reset: int, at_step: int) -> None:
        self.at_reset, self.at_step = at_reset, at_step

    def reset(self, **kwargs: Any) -> Any:
        return np.zeros(self.at_reset), {}

    def step(self, action: FloatArray) -> Any:
        return np.zeros(self.at_step), 0.0, False, False, {}


@pytest.mark.parametrize(("sizes", "where"), [((5, 3), "reset"), ((3, 5), "step 1")])
def test_an_observation_of_another_shape_than_declared_is_the_environments_fault(
    sizes: tuple[int, int], where: str
) -> None:
    with pytest.raises(EnvironmentFailure, match=rf"in {where} .*\(5,\), declared is \(3,\)"):
        roll_out(lambda obs: np.zeros((len(obs), 1), np.float32), lambda: Misdeclared(*sizes), 1, 0)


def test_environments_are_closed_when_the_policy_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    monkeypatch.setattr(Countdown, "close", lambda self: closed.append(1))

    def act(observations: FloatArray) -> FloatArray:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        roll_out(act, Countdown, 3, 1)
    assert len(closed) == 3


def test_mean_and_standard_error_by_hand() -> None:
    episodes = Episodes(np.array([1.0, 2.0, 6.0]), np.array([1, 1, 1]))
    assert episodes.mean_return == 3.0
    # variance ((−2)² + (−1)² + 3²)/2 = 7, of the mean 7/3
    assert episodes.standard_error == pytest.approx((7 / 3) ** 0.5)
    assert Episodes(np.array([4.0]), np.array([1])).standard_error == 0.0


def test_chunks_and_histories_begin_anew_with_every_episode() -> None:
    seen = []

    def act(observations: Any) -> Any:
        seen.append(observations[0].tolist())
        return np.zeros((len(observations), 3), np.float32)

    rolled = roll_out(act, Countdown, 3, 2, parallel=1, window=Window(3, execute=2, history=2))
    assert rolled.lengths.tolist() == [2, 3, 4]
    assert seen == [[2, 2], [3, 3], [2, 1], [4, 4], [3, 2]]
