"""Train a ConsistencyPolicy on arrays of your own, in a training loop of your own.

The arrays are fifty episodes of a scripted, noisy driver in Gymnasium's MountainCarContinuous-v0.

    python examples/train_on_arrays.py
"""

import gymnasium
import numpy as np
import torch

from cmpolicy import ConsistencyPolicy

noise = np.random.default_rng(0)


def driver(observation):
    """Push in the direction of motion: (2,) position and velocity → (1,) force in [−1, 1]."""
    return np.clip([60 * observation[1] + 0.1 * noise.standard_normal()], -1, 1)


def roll_out(act, episodes, seed):
    """Play whole episodes; returns (N, 2) observations, (N, 1) actions, (episodes,) returns."""
    env = gymnasium.make("MountainCarContinuous-v0")
    observations, actions, returns = [], [], np.zeros(episodes)
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed + episode)
        done = False
        while not done:
            observations.append(observation)
            actions.append(act(observation))
            observation, reward, terminated, truncated, _ = env.step(actions[-1])
            returns[episode] += reward
            done = terminated or truncated
    return np.float32(observations), np.float32(actions), returns


def main(path="mountain_car.safetensors", updates=500):
    """Record, train, save, roll out; returns the mean return of the policy."""
    torch.manual_seed(0)
    *recorded, driver_returns = roll_out(driver, episodes=50, seed=0)
    observations, actions = map(torch.from_numpy, recorded)
    # Bounds of actions are ±1 where none are given; it acts by the mode of 32 samples.
    policy = ConsistencyPolicy(obs_dim=2, action_dim=1, mode_of=32)
    policy.fit_normalizers(observations, actions)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    for update in range(updates):
        batch = torch.randint(len(observations), (256,))
        loss = policy.loss(observations[batch], actions[batch], progress=update / updates)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy.save(path)
    returns = roll_out(policy.act, episodes=10, seed=1000)[2]
    print(f"mean return: driver {driver_returns.mean():.1f}, policy {returns.mean():.1f}")
    return returns.mean()


if __name__ == "__main__":
    main()
