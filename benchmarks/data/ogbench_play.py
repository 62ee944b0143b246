"""Episodes of OGBench's manipulation scenes, played by its scripted oracles."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import ogbench.manipspace  # noqa: F401  registers the environments
from episode_columns import Columns, columns_of
from numpy.typing import NDArray
from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

SMOOTHING = 0.5  # of the noise, in steps
ORACLES: dict[str, dict[str, Any]] = {
    "cube": {"cube": CubePlanOracle},
    "puzzle": {"button": ButtonPlanOracle},
    "scene": {
        **{"cube": CubePlanOracle, "button": ButtonPlanOracle},
        **{"drawer": DrawerPlanOracle, "window": WindowPlanOracle},
    },
}
CUBE = slice(14, 17)  # its position in qpos


class PlayEpisodes:
    """Plays one task after the other: the scene sets a target, an oracle brings it about."""

    def __init__(self, name: str, steps: int, noise: float) -> None:
        scene = name.removesuffix("-play")
        self.kind = scene.partition("-")[0]
        self.env: Any = gymnasium.make(
            f"{scene}-v0", terminate_at_goal=False, mode="data_collection", max_episode_steps=steps
        )
        options: dict[str, Any] = {"noise": noise, "noise_smoothing": SMOOTHING}
        if self.kind == "puzzle":
            options["gripper_always_closed"] = True
        self.oracles = {
            task: oracle(env=self.env, **options) for task, oracle in ORACLES[self.kind].items()
        }
        self.stacking = 0.0 if scene == "cube-single" else 0.5  # chance, where there are two cubes

    def play(self, seed: int, number: int) -> Columns:
        """The columns of an episode; one that loses its cube is played again."""
        for attempt in range(1_000):
            of_env, of_oracle = np.random.SeedSequence([seed, number, attempt]).generate_state(2)
            np.random.seed(of_oracle)  # which the oracles draw from
            columns = columns_of(self._steps(int(of_env) % 2**31))
            if self.kind != "scene" or in_sight(columns["qpos"][:, CUBE]):
                return columns
        raise RuntimeError(f"a thousand attempts at episode {number} lost the cube")

    def _steps(self, seed: int) -> list[dict[str, Any]]:
        observation, info = self.env.reset(seed=seed)
        oracle = self.oracles[info["privileged/target_task"]]
        oracle.reset(observation, info)
        rows, over = [], False
        while not over:
            action = np.clip(oracle.select_action(observation, info), -1, 1)
            following, _, terminated, truncated, info = self.env.step(action)
            over = terminated or truncated
            if oracle.done:
                seen, target = self.env.unwrapped.set_new_target(p_stack=self.stacking)
                oracle = self.oracles[target["privileged/target_task"]]
                oracle.reset(seen, target)
            row = {"observations": observation, "actions": action, "terminals": over}
            row |= {"qpos": info["prev_qpos"], "qvel": info["prev_qvel"]}
            if "prev_button_states" in info:
                row["button_states"] = info["prev_button_states"]
            rows.append(row)
            observation = following
        return rows


def in_sight(cube: NDArray[np.float32]) -> bool:
    """Whether the camera saw the cube all the time, or it was in the drawer: (steps, 3)."""
    right, left, height = cube[:, 1] >= 0.29, cube[:, 1] <= -0.3, cube[:, 2]
    in_drawer = (height >= 0.06) & (height <= 0.08)
    return not (right | (left & ~in_drawer)).any()
