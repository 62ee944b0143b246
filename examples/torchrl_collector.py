"""Collect data with TorchRL's collector: it takes a ConsistencyPolicy as it is.

pip install torchrl
python examples/torchrl_collector.py policy.safetensors Hopper-v5
"""

import sys

from torchrl.collectors import Collector
from torchrl.envs import GymEnv

from cmpolicy import ConsistencyPolicy


def main(path, env_id, frames=1_000):
    """Play `frames` steps with samples of the policy; returns TorchRL's batch of them."""
    policy = ConsistencyPolicy.load(path)
    collector = Collector(
        lambda: GymEnv(env_id), policy, frames_per_batch=frames, total_frames=frames
    )
    [batch] = list(collector)
    rewards = batch["next", "reward"]
    print(f"{env_id}: {batch.numel()} steps, mean reward {rewards.mean():.2f}")
    return batch


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
