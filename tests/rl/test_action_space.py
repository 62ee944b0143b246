"""Action spaces of every kind: what an environment gets, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from cmpolicy.errors import InputError
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.rl.action_space import with_policy_actions


class Recorder(gymnasium.Env[Any, Any]):
    """Environment that keeps the last action."""

    observation_space = Box(-1, 1, (3,))

    def __init__(self, action_space: Any) -> None:
        self.action_space = action_space

    def step(self, action: Any) -> Any:
        self.action = action
        return np.zeros(3, np.float32), 0.0, False, False, {}


SPACES = {
    "float32": Box(-1, 1, (2,)),
    "float64 that float32 cannot hold": Box(
        np.array([0.1, -0.7]), np.array([0.7, 0.3]), dtype=np.float64
    ),
    "fixed float64": Box(np.array([0.1, 0.7]), np.array([0.1, 0.7]), dtype=np.float64),
    "int64": Box(0, 4, (2,), dtype=np.int64),
    "uint8": Box(0, 255, (2,), dtype=np.uint8),
    "largest float32": Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (2,)),
}


@pytest.mark.parametrize("kind", SPACES)
def test_a_policys_actions_are_in_the_space(kind: str) -> None:
    space = SPACES[kind]
    inner = Recorder(space)
    env = with_policy_actions("Own-v0", inner)
    policy = ConsistencyPolicy(3, 2, space.low.tolist(), space.high.tolist(), hidden=[8])
    for observation in np.random.default_rng(0).normal(size=(50, 3)):
        env.step(policy.act(observation))
        assert inner.action.dtype == space.dtype
        assert space.contains(inner.action)


def test_integers_are_the_nearest() -> None:
    inner = Recorder(SPACES["int64"])
    with_policy_actions("Own-v0", inner).step(np.float32([1.6, 4.9]))
    assert inner.action.tolist() == [2, 4]


@pytest.mark.parametrize(
    "space",
    [
        Discrete(3),
        MultiBinary(2),
        MultiDiscrete([2, 3]),
        Dict(a=Box(-1, 1, (2,))),
        Box(-1, 1, (2, 2)),
        Box(-np.inf, np.inf, (2,)),
        Box(0, np.inf, (2,)),
    ],
    ids=str,
)
def test_other_spaces_are_refused_in_one_line(space: Any) -> None:
    with pytest.raises(InputError, match=r"Own-v0 has .*\(.*\), expected") as caught:
        with_policy_actions("Own-v0", Recorder(space))
    assert "\n" not in str(caught.value)
