"""Offline training in one file, in the manner of CleanRL: TD3+BC with a consistency policy.

Everything that happens stands here: the data, the critics, the losses, the updates. The library
gives the policy and the data alone. The loss of the actor is that of Ding & Jin 2024.

    python examples/cleanrl_style.py
"""

import copy
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from torch import nn

from cmpolicy import ConsistencyPolicy
from cmpolicy.datasets import resolve_dataset


@dataclass
class Args:
    """Hyperparameters."""

    env_id: str = "Hopper-v5"
    task: str = "hopper-medium"
    updates: int = 5_000
    batch_size: int = 256
    learning_rate: float = 3e-4
    gamma: float = 0.99
    tau: float = 0.005
    eta: float = 0.1  # weight of the critics in the actor's loss
    width: int = 256
    episodes: int = 5
    seed: int = 0


def make_critic(width, *dims):
    """Q(s, a): one of the two."""
    layers = nn.Linear(sum(dims), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
    return nn.Sequential(*layers, nn.Linear(width, 1))


def q_values(critics, observations, actions):
    """(B, obs_dim), (B, action_dim) → (2, B)"""
    inputs = torch.cat((observations, actions), 1)
    return torch.stack([critic(inputs).squeeze(1) for critic in critics])


def train(args):
    """Train a policy; returns its moving average, which acts better than the last weights."""
    torch.manual_seed(args.seed)
    data = resolve_dataset(args.task, source="sample")
    env = gymnasium.make(args.env_id)
    policy = ConsistencyPolicy.from_spaces(
        env.observation_space, env.action_space, hidden=[args.width] * 2, mode_of=16
    )
    policy.fit_normalizers(data.observations, data.actions)
    average = copy.deepcopy(policy).requires_grad_(False)
    dims = policy.obs_dim, policy.action_dim
    critics = nn.ModuleList(make_critic(args.width, *dims) for _ in range(2))
    targets = copy.deepcopy(critics).requires_grad_(False)
    actor_optimizer = torch.optim.Adam(policy.parameters(), args.learning_rate)
    critic_optimizer = torch.optim.Adam(critics.parameters(), args.learning_rate)

    for update in range(args.updates):
        batch = data.sample(args.batch_size)
        observations = policy.normalize(batch.observations)
        with torch.no_grad():
            after = policy.normalize(batch.next_observations)
            next_q = q_values(targets, after, average(batch.next_observations)).amin(0)
            y = batch.rewards + args.gamma * (1 - batch.terminals) * next_q
        critic_loss = (q_values(critics, observations, batch.actions) - y).square().mean(1).sum()
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()

        consistency = policy.loss(batch.observations, batch.actions, update / args.updates)
        q = q_values(critics, observations, policy(batch.observations))
        actor_loss = consistency - args.eta * (q / q.detach().abs().mean()).mean()
        actor_optimizer.zero_grad()
        actor_loss.backward()
        actor_optimizer.step()

        with torch.no_grad():
            for own, other in ((targets, critics), (average, policy)):
                for slow, fast in zip(own.parameters(), other.parameters(), strict=True):
                    slow.lerp_(fast, args.tau)
        if update % 500 == 0:
            print(f"{update}: critic {critic_loss:.2f}, consistency {consistency:.3f}")
    return average


def evaluate(policy, args):
    """Returns of some episodes that are stepped together, (episodes,)."""
    envs = gymnasium.make_vec(args.env_id, num_envs=args.episodes)
    observations, _ = envs.reset(seed=args.seed)
    returns, running = np.zeros(args.episodes), np.ones(args.episodes, dtype=bool)
    while running.any():
        observations, rewards, ended, cut, _ = envs.step(policy.act(observations))
        returns += rewards * running
        running &= ~(ended | cut)
    envs.close()
    return returns


def main(args=None):
    """Train, save and evaluate; returns the mean return."""
    args = args or Args()
    policy = train(args)
    policy.save("policy.safetensors")
    returns = evaluate(policy, args)
    print(f"{args.env_id}: return {returns.mean():.1f} ± {returns.std():.1f}")
    return returns.mean()


if __name__ == "__main__":
    main()
