"""Act in a Gymnasium environment with a saved policy.

`ConsistencyPolicy.save` writes such a file, and every training run has one: policy.safetensors.

    python examples/act_in_gymnasium.py mountain_car.safetensors MountainCarContinuous-v0
    python examples/act_in_gymnasium.py runs/hopper-medium/…/policy.safetensors Hopper-v5
"""

import sys

import gymnasium
import numpy as np

from cmpolicy import ConsistencyPolicy


def main(path, env_id, episodes=8):
    """Step all episodes together, one network call a step; returns their returns, (episodes,)."""
    policy = ConsistencyPolicy.load(path)
    envs = gymnasium.make_vec(env_id, num_envs=episodes)
    observations, _ = envs.reset(seed=0)
    returns, running = np.zeros(episodes), np.ones(episodes, dtype=bool)
    while running.any():
        actions = policy.act(observations)  # (episodes, obs_dim) → (…, action_dim)
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        returns += rewards * running
        running &= ~(terminated | truncated)
    envs.close()
    print(f"{env_id}: return {returns.mean():.1f} ± {returns.std():.1f}, {episodes} episodes")
    return returns


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
