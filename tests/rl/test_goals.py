"""Goals: mazes with their dictionaries from recorded data to a score, and goals in hindsight."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmpolicy.datasets.minari_source import load_minari, minari_directory
from cmpolicy.datasets.windows import windowed
from cmpolicy.errors import InputError
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.goals import with_future_goals
from cmpolicy.training_run import train

pytest.importorskip("gymnasium_robotics", reason="the extra robotics")
STEPS = 30


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three episodes of a random policy in PointMaze, as Minari has them."""
    import minari
    from minari.data_collector import EpisodeBuffer

    places = pytest.MonkeyPatch()
    places.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
    env = Environment("PointMaze_UMaze-v3", max_episode_steps=STEPS).make().env
    env.action_space.seed(0)
    buffers = []
    for seed in range(3):
        steps: list[Any] = []
        seen = [env.reset(seed=seed)[0]]
        for _ in range(STEPS):
            action = env.action_space.sample()
            steps.append((action, *env.step(action)))
            seen.append(steps[-1][1])
        actions, _, rewards, ended, cut, _ = zip(*steps, strict=True)
        columns = {key: np.array([each[key] for each in seen]) for key in seen[0]}
        recorded = map(np.array, (actions, rewards, ended, cut))
        names = ("actions", "rewards", "terminations", "truncations")
        parts = dict(zip(names, recorded, strict=True))
        buffers.append(EpisodeBuffer(observations=columns, infos={}, **parts))
    with warnings.catch_warnings(action="ignore"):  # Minari misses an author
        minari.create_dataset_from_buffers("test/maze-v0", buffers, env=env)
    yield minari_directory() / "test" / "maze-v0"
    places.undo()


def test_a_maze_trains_and_is_scored_with_its_goals(
    maze: Path, compose: Any, tiny: Any, tmp_path: Path
) -> None:
    options = [option for option in tiny if not option.startswith(("env=", "dataset."))]
    options += [f"dataset.path={maze}", "dataset.future_goals=1", "agent.critic_hidden=[8]"]
    options += [f"env.max_episode_steps={STEPS}", "agent.policy.horizon=2"]
    train(compose(*options, f"run_dir={tmp_path / 'run'}"), [])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["environment"]["observation_keys"] == [
        *("achieved_goal", "desired_goal", "observation"),
    ]
    assert results["spaces"]["obs_dim"] == 8
    assert results["dataset"]["transitions"] == 2 * 3 * STEPS


def test_goals_in_hindsight_are_reached_at_the_end_of_their_piece(maze: Path) -> None:
    data = load_minari(maze)
    environment, env = Environment("PointMaze_UMaze-v3").probed()
    env.close()
    both = with_future_goals(data, environment, 2, seed=0)
    n = len(data)
    assert len(both) == 3 * n
    assert torch.equal(both.observations[:n], data.observations)
    ends = both.episode_ends.clone()
    assert bool(ends[n - 1] & ends[2 * n - 1] & ends[-1])
    assert 6 < int(ends[n:].sum()) < 2 * n
    copies = slice(n, 3 * n)
    reached, goal = both.next_observations[copies, 0:2], both.next_observations[copies, 2:4]
    assert torch.equal(both.observations[copies, 2:4], goal)
    assert torch.equal(reached[ends[copies]], goal[ends[copies]])
    near = torch.linalg.vector_norm(reached - goal, dim=1) <= 0.45
    assert torch.equal(both.rewards[copies], near.float())
    assert torch.equal(both.terminals[copies], near.float())
    wide = windowed(both, 3, 1).observations[copies].view(2 * n, 3, 8)
    assert torch.equal(wide[:, 0, 2:4], wide[:, 2, 2:4])  # one goal in a history
    assert not torch.equal(both.observations[n : 2 * n], both.observations[2 * n :])
    again = with_future_goals(data, environment, 2, seed=0)
    assert torch.equal(again.observations, both.observations)


def test_an_environment_without_goals_is_refused(maze: Path) -> None:
    with pytest.raises(InputError, match="those of Hopper-v5 have no keys"):
        with_future_goals(load_minari(maze), Environment("Hopper-v5"), 1, 0)


def test_ant_mazes_have_their_goals_in_the_observation() -> None:
    environment, env = Environment("AntMaze_UMaze-v4").probed()
    assert environment.observation_keys == ["achieved_goal", "desired_goal", "observation"]
    first, _ = env.reset(seed=0)
    base: Any = env.unwrapped
    np.testing.assert_allclose(first[2:4], base.goal, rtol=1e-6)
    env.close()
