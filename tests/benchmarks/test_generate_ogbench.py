"""OGBench's data made again: tiny sets, in parts, by several processes or one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ogbench", reason="the extra ogbench")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of MuJoCo without a screen, of bounds in float64
]


@pytest.fixture
def generate(load: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    return load("data/generate_ogbench")


def columns(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize("name", ["cube-single-play", "pointmaze-medium-stitch"])
def test_a_set_does_not_depend_on_how_it_was_made(
    generate: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["episodes=10", "steps=12"]
    generate.main([name, f"out={tmp_path / 'once'}", *tiny])
    generate.main([name, f"out={tmp_path / 'parts'}", *tiny, "part=2", "first=4", "last=9"])
    assert "still to be made" in capsys.readouterr().out
    generate.main([name, f"out={tmp_path / 'parts'}", *tiny, "part=3"])
    for file, episodes in ((f"{name}-v0.npz", 10), (f"{name}-v0-val.npz", 1)):
        once, parts = (columns(tmp_path / folder / file) for folder in ("once", "parts"))
        assert once.keys() == parts.keys() >= {"observations", "actions", "qpos", "qvel"}
        for key, column in once.items():
            np.testing.assert_array_equal(column, parts[key])
        assert len(once["observations"]) == 12 * episodes
        assert np.flatnonzero(once["terminals"]).tolist() == list(range(11, 12 * episodes, 12))
        assert once["observations"].dtype == once["actions"].dtype == np.float32
        assert np.abs(once["actions"]).max() <= 1
        assert json.loads(str(once["generated_by"]))["seed"] == 0


def test_what_is_asked_for_wrongly_is_said(
    generate: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="no set 'cube-play'"):
        generate.main(["cube-play"])
    generate.main(["--help"])
    assert "first, last" in capsys.readouterr().out


def test_stitch_goals_are_four_cells_away(generate: Any) -> None:
    import ogbench_mazes

    maze = ogbench_mazes.MazeEpisodes("pointmaze-medium-stitch", 5, 0.5)
    goals = maze._near(maze.cells[0])
    assert goals
    assert all(maze.env.unwrapped.maze_map[cell] == 0 for cell in goals)
    i, j = maze.cells[0]
    assert all((abs(a - i) + abs(b - j)) % 2 == 0 for a, b in goals)
    assert set(maze.corners) < set(maze.cells)
