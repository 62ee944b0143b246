"""Train on arrays and an environment of your own with `cmpolicy.fit`.

python examples/own_data.py
"""

import gymnasium
import numpy as np

import cmpolicy


class Reach(gymnasium.Env):
    """Move a point to the origin within thirty steps; the reward is minus the distance."""

    observation_space = gymnasium.spaces.Box(-4, 4, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        """Begin anywhere in a square."""
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-2, 2, 2).astype(np.float32)
        return self.place, {}

    def step(self, action):
        """Move by a fifth of the action."""
        self.place = np.clip(self.place + np.float32(0.2) * action, -4, 4)
        return self.place, -float(np.linalg.norm(self.place)), False, False, {}


def make_env():
    """A new environment at each call: an evaluation steps several at once."""
    return gymnasium.wrappers.TimeLimit(Reach(), 30)


def record(episodes=60, seed=0):
    """Episodes of a walker that is often wrong, as flat arrays."""
    rng, env = np.random.default_rng(seed), make_env()
    rows = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed + episode)
        truncated = False
        while not truncated:
            action = np.clip(-observation + 0.5 * rng.standard_normal(2), -1, 1)
            after, reward, terminated, truncated, _ = env.step(action.astype(np.float32))
            rows.append((observation, action, reward, terminated, truncated, after))
            observation = after
    names = "observations", "actions", "rewards", "terminals", "timeouts", "next_observations"
    columns = zip(*rows, strict=True)
    return {name: np.array(column) for name, column in zip(names, columns, strict=True)}


SMALL = {"agent.policy.hidden": [64, 64], "agent.critic_hidden": [64, 64], "batch_size": 64}


def main(steps=1_500, **keys):
    """Train and evaluate; returns the mean return of the data and of the policy."""
    data = record()
    keys = {"env.name": "reach", **SMALL, **keys}  # as of the command line
    run = cmpolicy.fit(data, make_env, agent="ac", steps=steps, **keys)
    score = run.evaluate(episodes=20, seed=1)
    recorded = data["rewards"].sum() / data["timeouts"].sum()
    print(f"mean return: data {recorded:.1f}, policy {score.mean_return:.1f}; {run}")
    again = cmpolicy.load_run(run.path)  # in another program, too
    print(f"action in (1, 1): {again.policy.act([1.0, 1.0])}")
    return recorded, score.mean_return


if __name__ == "__main__":
    main()
