"""Evaluate with Stable-Baselines3's `evaluate_policy`: a ConsistencyPolicy predicts as its models.

pip install stable-baselines3
python examples/sb3_evaluate.py policy.safetensors Hopper-v5
"""

import sys

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from cmpolicy import ConsistencyPolicy


def main(path, env_id, episodes=8):
    """Deterministic evaluation is by the mode; returns mean and standard deviation of returns."""
    policy = ConsistencyPolicy.load(path)
    envs = make_vec_env(env_id, n_envs=4, seed=0)
    mean, std = evaluate_policy(policy, envs, n_eval_episodes=episodes, deterministic=True)
    print(f"{env_id}: return {mean:.1f} ± {std:.1f}, {episodes} episodes")
    return mean, std


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
