"""Environments by id: flat observations, or one line that says why not."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import registry
from gymnasium.spaces import Box, Dict, Discrete, Space

from cmpolicy.errors import InputError
from cmpolicy.rl.environments import Environment

VECTOR = Box(-1, 1, (2,))


class Made(gymnasium.Env[Any, Any]):
    """An environment with the spaces it is given."""

    def __init__(self, observation_space: Space[Any], action_space: Space[Any], **_: Any) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    """register(observation_space, action_space): an environment for the time of the test."""

    def add(observation_space: Space[Any], action_space: Space[Any]) -> str:
        gymnasium.register(
            "Made-v0",
            entry_point=Made,
            kwargs={"observation_space": observation_space, "action_space": action_space},
            disable_env_checker=True,
        )
        return "Made-v0"

    yield add
    registry.pop("Made-v0", None)


def refused(env_id: str) -> str:
    with pytest.raises(InputError) as error:
        Environment(env_id).make()
    assert "\n" not in str(error.value)
    assert env_id in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "env_id", ["Hoper-v5", "Hopper-v99", "nowhere:Thing-v0", "", "no id", "Hopper/v5"]
)
def test_an_unknown_environment(env_id: str) -> None:
    assert "cannot make environment" in refused(env_id)


def test_options_that_it_does_not_take() -> None:
    with pytest.raises(InputError, match="cannot make environment 'Hopper-v5'"):
        Environment("Hopper-v5").make(colour="red")


def test_discrete_actions() -> None:
    assert "action space Discrete(2), expected a vector" in refused("CartPole-v1")


@pytest.mark.parametrize(
    ("observation_space", "action_space", "reason"),
    [
        (VECTOR, Box(-np.inf, np.inf, (2,)), "unbounded actions"),
        (VECTOR, Box(np.float32([-1, -np.inf]), np.float32([1, 1])), "unbounded actions"),
        (VECTOR, Box(-1, 1, (2, 3)), "action space"),
        (VECTOR, Dict(a=VECTOR), "action space"),
        (Discrete(5), VECTOR, "observation space"),
        (Box(0, 255, (8, 8, 3), np.uint8), VECTOR, "observation space"),
    ],
)
def test_spaces_that_no_policy_here_can_serve(
    register: Any, observation_space: Space[Any], action_space: Space[Any], reason: str
) -> None:
    assert reason in refused(register(observation_space, action_space))


def test_observations_may_be_unbounded_and_actions_of_any_scale(register: Any) -> None:
    low, high = np.array([-3.0, 0.0], np.float32), np.array([0.5, 1e4], np.float32)
    env = Environment(register(Box(-np.inf, np.inf, (3,)), Box(low, high))).make()
    np.testing.assert_array_equal(env.action_space.low, low)
    assert env.observation_space.shape == (3,)


@pytest.mark.parametrize("layout", ["minari", "d4rl"])
def test_a_dictionary_with_a_goal_becomes_a_vector(register: Any, layout: str) -> None:
    parts = {
        "observation": Box(-1, 1, (3,)),
        "desired_goal": Box(10, 11, (2,)),
        "achieved_goal": Box(20, 21, (2,)),
    }
    env = Environment(register(Dict(parts), VECTOR), layout=layout).make()
    observation, _ = env.reset()
    assert env.observation_space.shape == observation.shape
    kinds = (observation.reshape(-1) // 10).clip(0).astype(int).tolist()
    # Minari: all by sorted key; D4RL: position and observation, no goal
    assert kinds == {"minari": [2, 2, 1, 1, 0, 0, 0], "d4rl": [2, 2, 0, 0, 0]}[layout]


def test_a_recorded_specification_is_followed() -> None:
    import json

    recorded = json.loads(gymnasium.spec("Hopper-v5").to_json())
    recorded["kwargs"] = {"exclude_current_positions_from_observation": False}
    recorded["max_episode_steps"] = 7
    env = Environment("Hopper-v5", json.dumps(recorded)).make()
    assert env.observation_space.shape == (12,)
    assert env.spec is not None
    assert env.spec.max_episode_steps == 7
    with pytest.raises(InputError, match="cannot make environment"):
        Environment("Hopper-v5", "{").make()


@pytest.mark.parametrize("env_id", ["Hopper-v4", "HalfCheetah-v5", "Walker2d-v5"])
def test_what_the_tasks_are_evaluated_in_can_be_made_without_a_warning(env_id: str) -> None:
    env = Environment(env_id).make()
    assert isinstance(env.action_space, Box)
    env.close()
