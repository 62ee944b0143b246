"""Episodes of OGBench's point mazes, led by its shortest paths."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import ogbench.locomaze  # noqa: F401  registers the environments
from episode_columns import Columns, columns_of
from numpy.typing import NDArray

Cell = tuple[int, int]
STITCH_CELLS = 4  # between an episode's start and its goal
AROUND = ((-1, 0), (1, 0), (0, -1), (0, 1))


class MazeEpisodes:
    """Goes towards one goal after the other (navigate), or to a near one and stays (stitch)."""

    def __init__(self, name: str, steps: int, noise: float) -> None:
        _, maze, self.kind = name.split("-")
        self.env: Any = gymnasium.make(
            f"pointmaze-{maze}-v0", terminate_at_goal=False, max_episode_steps=steps
        )
        self.noise, grid = noise, self.env.unwrapped.maze_map
        self.cells: list[Cell] = [(int(i), int(j)) for i, j in np.argwhere(grid == 0)]
        self.corners = [cell for cell in self.cells if not is_hallway(grid, cell)]

    def play(self, seed: int, number: int) -> Columns:
        """The columns of an episode."""
        of_env, of_path = np.random.SeedSequence([seed, number]).generate_state(2)
        np.random.seed(of_env)  # which the maze draws from
        return columns_of(self._steps(int(of_env) % 2**31, np.random.default_rng(of_path)))

    def _steps(self, seed: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        start = self.cells[rng.integers(len(self.cells))]
        goals = self.corners if self.kind == "navigate" else self._near(start)
        ends = {"init_ij": start, "goal_ij": goals[rng.integers(len(goals))]}
        observation, _ = self.env.reset(seed=seed, options={"task_info": ends})
        maze, rows, over = self.env.unwrapped, [], False
        while not over:
            here = maze.get_xy()
            way = maze.get_oracle_subgoal(here, maze.cur_goal_xy)[0] - here
            action = way / (np.linalg.norm(way) + 1e-6) + rng.normal(0, self.noise, way.shape)
            action = np.clip(action, -1, 1)
            following, _, terminated, truncated, info = self.env.step(action)
            over = terminated or truncated
            if info["success"] and self.kind == "navigate":
                maze.set_goal(goals[rng.integers(len(goals))])
            row = {"observations": observation, "actions": action, "terminals": over}
            rows.append(row | {"qpos": info["prev_qpos"], "qvel": info["prev_qvel"]})
            observation = following
        return rows

    def _near(self, start: Cell) -> list[Cell]:
        """Cells where a stitch episode may end; the start itself where there are none."""
        distances, front = {start: 0}, [start]
        for i, j in front:  # grows as it goes
            for down, right in AROUND:
                cell = i + down, j + right
                if cell in self.cells and cell not in distances:
                    distances[cell] = distances[i, j] + 1
                    front.append(cell)
        near = [cell for cell, distance in distances.items() if distance == STITCH_CELLS]
        return near or [start]


def is_hallway(grid: NDArray[Any], cell: Cell) -> bool:
    """Whether a cell has walls on two opposite sides and none on the others."""
    up, down, left, right = (grid[cell[0] + i, cell[1] + j] for i, j in AROUND)
    return (up, down, left, right) in ((0, 0, 1, 1), (1, 1, 0, 0))
