"""A task: an environment, and how its data are recorded.

python -m cmpolicy_example.task line.hdf5
python -m cmpolicy.train env=line dataset.path=line.hdf5 agent=smooth_bc
"""

import sys

import gymnasium
import h5py
import numpy as np

from cmpolicy import EnvConfig


class Line(gymnasium.Env):
    """Walk to the middle of a line within twenty steps; the reward is minus the distance."""

    observation_space = gymnasium.spaces.Box(-4, 4, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        """Begin anywhere."""
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-2, 2, 1).astype(np.float32)
        return self.place, {}

    def step(self, action):
        """Move by a tenth of the action."""
        self.place = np.clip(self.place + np.float32(0.1) * action, -4, 4)
        return self.place, -abs(float(self.place[0])), False, False, {}


# Gymnasium finds it by its id in every command, because the entry point imports this module.
gymnasium.register("cmpolicy_example/Line-v0", Line, max_episode_steps=20)
LINE = EnvConfig(id="cmpolicy_example/Line-v0")


def record(path, episodes=50):
    """Write episodes of a noisy walker in the layout of D4RL."""
    env, noise = gymnasium.make(LINE.id), np.random.default_rng(0)
    columns = {key: [] for key in ("observations", "actions", "rewards", "terminals", "timeouts")}
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        truncated = False
        while not truncated:
            action = np.clip(-observation + 0.3 * noise.standard_normal(1), -1, 1)
            after, reward, _, truncated, _ = env.step(action.astype(np.float32))
            for column, value in zip(
                columns.values(), (observation, action, reward, False, truncated), strict=True
            ):
                column.append(value)
            observation = after
    with h5py.File(path, "w") as file:
        for key, column in columns.items():
            file[key] = np.asarray(column)


if __name__ == "__main__":
    record(sys.argv[1])
