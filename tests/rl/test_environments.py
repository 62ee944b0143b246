"""Environments by id: flat observations, or one line that says why not."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Space

from cmpolicy.errors import InputError
from cmpolicy.rl.environments import Environment, registered_limit

VECTOR = Box(-1, 1, (2,))


class Made(gymnasium.Env[Any, Any]):
    """An environment with the spaces it is given."""

    def __init__(self, observation_space: Space[Any], action_space: Space[Any], **_: Any) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}


@pytest.fixture
def made(register: Any) -> Any:
    """made(observation_space, action_space): the id of such an environment."""
    return lambda observations, actions=VECTOR: register(
        Made, observation_space=observations, action_space=actions
    )


def refused(env_id: str, **recipe: Any) -> str:
    with pytest.raises(InputError) as error:
        Environment(env_id, **recipe).make()
    assert "\n" not in str(error.value)
    assert env_id in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("env_id", ["Hoper-v5", "Hopper-v99", "nowhere:Thing-v0", "", "no id"])
def test_an_unknown_environment(env_id: str) -> None:
    assert "cannot make environment" in refused(env_id)


def test_keyword_arguments_reach_the_environment() -> None:
    kept = {"exclude_current_positions_from_observation": False}
    env = Environment("Hopper-v5", kept, max_episode_steps=7).make()
    assert env.observation_space.shape == (12,)
    assert env.spec is not None
    assert env.spec.max_episode_steps == 7
    assert "cannot make environment 'Hopper-v5'" in refused("Hopper-v5", kwargs={"colour": 1})


@pytest.mark.parametrize(
    ("observations", "actions", "reason"),
    [
        (VECTOR, Discrete(2), "action space Discrete(2), expected a vector"),
        (VECTOR, Box(-np.inf, np.inf, (2,)), "unbounded actions"),
        (VECTOR, Box(np.float32([-1, -np.inf]), np.float32([1, 1])), "unbounded actions"),
        (VECTOR, Box(-1, 1, (2, 3)), "action space"),
        (VECTOR, Dict(a=VECTOR), "action space"),
        (Discrete(5), VECTOR, "observation space"),
        (Box(0, 255, (8, 8), np.uint8), VECTOR, "observation space"),
    ],
)
def test_spaces_that_no_policy_here_can_serve(
    made: Any, observations: Space[Any], actions: Space[Any], reason: str
) -> None:
    assert reason in refused(made(observations, actions))


def test_observations_may_be_unbounded_and_actions_of_any_scale(made: Any) -> None:
    low, high = np.array([-3.0, 0.0], np.float32), np.array([0.5, 1e4], np.float32)
    env = Environment(made(Box(-np.inf, np.inf, (3,)), Box(low, high))).make()
    np.testing.assert_array_equal(env.action_space.low, low)
    assert env.observation_space.shape == (3,)


GOAL = {
    "observation": Box(-1, 1, (3,)),
    "desired_goal": Dict(OrderedDict(b=Box(10, 11, (1,)), a=Box(30, 31, (1,)))),
    "achieved_goal": Box(20, 21, (2,)),
}


@pytest.mark.parametrize(
    ("space", "keys", "kinds"),
    [
        (Dict(GOAL), None, [2, 2, 1, 3, 0, 0, 0]),  # Gymnasium sorts a plain dictionary
        (Dict(OrderedDict(GOAL)), None, [0, 0, 0, 1, 3, 2, 2]),
        (Dict(GOAL), ["achieved_goal", "observation"], [2, 2, 0, 0, 0]),  # D4RL's, without goal
        (Dict(GOAL), ["observation", "desired_goal"], [0, 0, 0, 1, 3]),
        (Dict(OrderedDict(GOAL)), ["desired_goal/a", "observation"], [3, 0, 0, 0]),
    ],
)
def test_a_dictionary_becomes_a_vector_in_its_own_order_or_that_of_the_data(
    made: Any, space: Dict, keys: list[str] | None, kinds: list[int]
) -> None:
    recipe, env = Environment(made(space), observation_keys=keys).probed()
    observation, _ = env.reset()
    assert env.observation_space.contains(np.float32(observation))
    assert (np.asarray(observation) // 10).clip(0).astype(int).tolist() == kinds
    again, _ = Environment(recipe.id, observation_keys=recipe.observation_keys).make().reset()
    assert (np.asarray(again) // 10).clip(0).astype(int).tolist() == kinds  # as the run stores it


def test_an_entry_that_is_missing_or_no_vector_is_named(made: Any) -> None:
    with pytest.raises(InputError, match=r"no entry 'goal', as the data do; there are: achieved"):
        Environment(made(Dict(GOAL)), observation_keys=["goal"]).make()
    with pytest.raises(InputError, match=r"observation 'b' is Discrete\(3\), expected a vector"):
        Environment(made(Dict(a=VECTOR, b=Discrete(3)))).make()


def test_an_environment_without_a_time_limit_gets_one_and_a_warning(
    register: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("cmpolicy"), "propagate", True)
    endless, limited = register(limit=None), register(limit=20)
    assert Environment(limited).probed()[0].max_episode_steps is None
    assert Environment(endless, max_episode_steps=30).probed()[0].max_episode_steps == 30
    assert caplog.text == ""
    recipe, _ = Environment(endless).probed()
    assert recipe.max_episode_steps == 1000
    assert "has no time limit: its episodes are cut after 1000 steps" in caplog.text
    spec = recipe.make().spec
    assert spec is not None
    assert spec.max_episode_steps == 1000
    assert [registered_limit(name) for name in (limited, endless, None, "none")] == [20] + [
        None
    ] * 3


@pytest.mark.parametrize("env_id", ["Hopper-v4", "HalfCheetah-v5", "Walker2d-v5"])
def test_what_the_tasks_are_evaluated_in_can_be_made_without_a_warning(env_id: str) -> None:
    Environment(env_id).make().close()


# Data choose no code ----------------------------------------------------------------------------


def test_data_name_registered_environments_alone(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stranger.py").write_text("open('called', 'w')\nraise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    said = refused("stranger:Hopper-v5", from_data=True)
    assert "whose module would be imported" in said
    assert said.endswith("env.id=stranger:Hopper-v5")
    for wrapped in ("GymV21Environment-v0", "GymV26Environment-v0"):
        refused(wrapped, from_data=True, kwargs={"env_id": "stranger:Hopper-v5"})
    assert not (tmp_path / "called").exists()
    assert "give env.id=MODULE:Own-v0, where MODULE registers it" in refused(
        "Own-v0", from_data=True
    )
    assert Environment("Hopper-v5", from_data=True).make().spec is not None


def test_the_users_own_module_is_imported(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.mujoco.hopper_v5 import HopperEnv\n"
        "gymnasium.register('Mine-v0', HopperEnv, max_episode_steps=9)\n"
    )
    program = (
        "from cmpolicy.rl.environments import Environment, registered_limit\n"
        "print(registered_limit('mine:Mine-v0'), Environment('mine:Mine-v0').make().spec.id)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["9", "Mine-v0"]


@pytest.mark.parametrize("name", ["RecordVideo", "system", "TimeLimit", "os"])
def test_recorded_wrappers_are_those_of_observations_actions_and_rewards(name: str) -> None:
    timed = {"name": "TimeAwareObservation", "kwargs": {"normalize_time": True}}
    assert Environment("Hopper-v5", wrappers=[timed]).make().observation_space.shape == (12,)
    with pytest.raises(InputError, match=f"recorded with the wrapper {name}, which is not one"):
        Environment("Hopper-v5", wrappers=[{"name": name, "kwargs": {}}]).make()
