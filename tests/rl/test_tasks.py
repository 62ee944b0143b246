"""The tasks name datasets, rewards and references that exist, and compose with every agent."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import hydra
import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from cmpolicy.agents.ding_jin import PUBLISHED
from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.cli.keys import explain
from cmpolicy.datasets import REWARDS, reference_scores
from cmpolicy.datasets.d4rl_catalogue import D4RL_FILES
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.tasks import TASKS


def compose(*overrides: str) -> RLConfig:
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = OmegaConf.to_object(hydra.compose("rl", list(overrides)))
    assert isinstance(config, RLConfig)
    return config


def test_every_d4rl_dataset_is_a_task_and_everything_named_exists() -> None:
    assert len(TASKS) == 40 + 8 + 16 * 6
    assert {task.d4rl_id for task in TASKS.values()} - {None} == set(D4RL_FILES)
    for name, task in TASKS.items():
        assert task.name == name
        assert (task.d4rl_id is None) == (task.d4rl_env_id is None)
        assert task.reward in REWARDS
        assert task.d4rl_max_episode_steps == (100 if name.startswith("pen") else None)
        for known in (task.d4rl_id, task.d4rl_env_id, task.minari_id):
            if known is None or name.startswith("pointmaze-"):  # D4RL has maze2d
                continue
            changed = re.fullmatch("AdroitHand(Door|Hammer|Relocate)-v1", known)  # its reward
            assert reference_scores(known) == (None if changed else reference_scores(name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hopper-medium", ("hopper-medium-v2", "Hopper-v4", "mujoco/hopper/medium-v0", "none")),
        ("walker2d-medium-replay", ("walker2d-medium-replay-v2", "Walker2d-v4", None, "none")),
        ("halfcheetah-simple", (None, None, "mujoco/halfcheetah/simple-v0", "none")),
        ("pen-human", ("pen-human-v1", "AdroitHandPen-v1", "D4RL/pen/human-v2", "normalize")),
        (
            "antmaze-umaze-diverse",
            (
                *("antmaze-umaze-diverse-v2", "AntMaze_UMaze-v4"),
                *("D4RL/antmaze/umaze-diverse-v1", "iql_antmaze"),
            ),
        ),
        (
            "kitchen-partial",
            ("kitchen-partial-v0", "FrankaKitchen-v1", "D4RL/kitchen/partial-v2", "none"),
        ),
        ("custom", (None, None, None, "none")),
    ],
)
def test_a_task_composes_by_its_name(name: str, expected: tuple[str | None, ...]) -> None:
    env = compose(f"env={name}").env
    assert env == TASKS[name]
    assert (env.d4rl_id, env.d4rl_env_id, env.minari_id, env.reward) == expected
    changed = compose(f"env={name}", "env.id=Mine-v0", "env.kwargs={gravity: 3.7}").env
    assert changed == dataclasses.replace(env, id="Mine-v0", kwargs={"gravity": 3.7})


def test_the_default_is_data_of_ones_own_and_a_wrong_name_is_refused_with_the_list() -> None:
    assert compose().env.name == "custom"
    assert not (Path(CONFIG_PATH) / "env").exists()
    with pytest.raises(HydraException) as error:
        compose("env=hoper-medium")
    reason = "there is no env=hoper-medium (did you mean hopper-medium?); choose one of: antmaze-"
    assert explain(error.value).startswith(reason)
    assert "hopper-medium, hopper-medium-expert" in explain(error.value)
    with pytest.raises(ValueError, match=r"env\.max_episode_steps must be at least 1, got 0"):
        compose("env.max_episode_steps=0")
    with pytest.raises(ValueError, match=r"env\.kwargs must be names and values, got 3"):
        compose("env.kwargs=3")
    for parallel in ("0", "many", "1.5"):
        with pytest.raises(ValueError, match=r"eval\.parallel must be auto or at least 1, got"):
            compose(f"eval.parallel={parallel}")
    assert [compose(f"eval.parallel={n}").eval.instances for n in ("auto", "3")] == [None, 3]


# η, gradient norm, learning rate, max-Q backup, normalised targets
LOCOMOTION, ADROIT = (1.0, 5.0, 3e-4, False, False), (0.01, 7.0, 3e-5, False, True)


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("hopper-medium", (0.1, 9.0, 3e-4, False, False)),
        ("walker2d-medium", (1.0, 1.0, 3e-4, False, True)),
        ("antmaze-medium-play", (0.01, 2.0, 1e-3, True, False)),
        ("pen-cloned", (0.01, 8.0, 3e-5, False, True)),
        *(("hopper-expert", LOCOMOTION), ("hopper-simple", LOCOMOTION), ("custom", LOCOMOTION)),
        *(("pen-expert", ADROIT), ("relocate-human", ADROIT)),  # none are published
    ],
)
def test_published_agents_take_the_settings_of_the_task(
    task: str, settings: tuple[float, ...]
) -> None:
    agent = compose(f"env={task}", "agent=ac_ding_jin").agent
    assert settings == (
        *(agent.eta, agent.max_grad_norm, agent.learning_rate),
        *(agent.max_q_backup, agent.normalize_target),
    )
    other = compose(f"env={task}", "env.name=other", "agent=diffusion_ql").agent
    assert (other.max_grad_norm, other.learning_rate, other.max_q_backup) == settings[1:4]
    assert other.eta == 1.0
    assert compose(f"env={task}", "agent=ac_ding_jin", "agent.eta=9").agent.eta == 9.0


def test_published_settings_are_of_tasks() -> None:
    known = {(task.d4rl_id or "").rpartition("-v")[0] for task in TASKS.values()}
    assert set(PUBLISHED) < known
