"""Small configurations, data and environments that the tests of `rl` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import hydra
import numpy as np
import pytest
from gymnasium.envs.registration import registry
from gymnasium.spaces import Box
from omegaconf import OmegaConf

from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.rl.config import RLConfig


@pytest.fixture(scope="session")
def compose() -> Callable[..., RLConfig]:
    """compose(*overrides): the configuration that `python -m cmpolicy.train` would be given."""

    def composed(*overrides: str) -> RLConfig:
        with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
            config = OmegaConf.to_object(hydra.compose("rl", list(overrides)))
        assert isinstance(config, RLConfig)
        return config

    return composed


@pytest.fixture(scope="session")
def write_data() -> Callable[..., Path]:
    """write_data(path, obs_dim, action_dim, **changes): 100 random steps in D4RL's layout.

    Episodes of 20 steps, each of which ends in a terminal; None leaves a column out.
    """

    def write(path: Path, obs_dim: int = 11, action_dim: int = 3, **changes: Any) -> Path:
        rng = np.random.default_rng(0)
        columns = {
            "observations": rng.normal(size=(100, obs_dim)).astype(np.float32),
            "actions": rng.uniform(-1, 1, size=(100, action_dim)).astype(np.float32),
            "rewards": rng.normal(size=100).astype(np.float32),
            "terminals": np.arange(100) % 20 == 19,
            "timeouts": np.zeros(100, bool),
            **changes,
        }
        with h5py.File(path, "w") as file:
            for key, values in columns.items():
                if values is not None:
                    file[key] = values
        return path

    return write


class Plain(gymnasium.Env[Any, Any]):
    """A point that moves by its action; a subclass overrides one method.

    Attributes:
        t: steps since the reset.
        first_seed: of the episode.
    """

    observation_space, action_space = Box(-np.inf, np.inf, (3,)), Box(-1, 1, (1,))
    t = 0
    first_seed: int | None = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.t, self.first_seed = float(self.np_random.normal()), 0, seed
        return self.seen(), {}

    def seen(self) -> Any:
        return np.float32([self.x, self.t / 10, 1.0])

    def reward(self) -> Any:
        return -(self.x**2)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.x += 0.1 * float(action[0])
        self.t += 1
        return self.seen(), self.reward(), False, False, {}


@pytest.fixture
def register() -> Iterator[Callable[..., str]]:
    """register(overridden, limit=20, **kwargs): an environment, forgotten after the test.

    `overridden` are methods and attributes in place of `Plain`'s, or an environment's class.
    """
    before = set(registry)

    def add(overridden: Any = None, limit: int | None = 20, **kwargs: Any) -> str:
        kind = (
            overridden if isinstance(overridden, type) else type("Own", (Plain,), overridden or {})
        )
        name = f"Own{len(registry)}-v0"
        gymnasium.register(
            name, kind, max_episode_steps=limit, kwargs=kwargs, disable_env_checker=True
        )
        return name

    yield add
    for name in set(registry) - before:
        del registry[name]
