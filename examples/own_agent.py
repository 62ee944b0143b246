"""An agent of your own: behaviour cloning that acts alike in consecutive states.

Smooth actions spare a robot's motors (the temporal term of CAPS, Mysore et al. 2021).

    python examples/own_agent.py
"""

from dataclasses import dataclass

import torch

from cmpolicy.agents import Agent, AgentConfig, Spaces
from cmpolicy.datasets import resolve_dataset


@dataclass
class SmoothBCConfig(AgentConfig):
    """Every agent's hyperparameters, and the weight of the smoothness term."""

    algorithm: str = "smooth_bc"
    name: str = "smooth_bc"
    smoothness: float = 1.0


class SmoothBC(Agent):
    """L_consistency(a | s) + smoothness · E‖π(s', 0) − π(s, 0)‖², where 0 is the noise."""

    Config = SmoothBCConfig

    def actor_loss(self, batch):
        """The loss, (), and what is logged of it."""
        consistency = self.policy.loss(batch.observations, batch.actions, self.progress)
        zero = torch.zeros_like(batch.actions)
        here = self.policy(batch.observations, noise=zero)
        next_ = self.policy(batch.next_observations, noise=zero)
        jerk = (next_ - here).square().sum(1).mean()
        return consistency + self.config.smoothness * jerk, {"actor/jerk": jerk.detach()}

    def update(self, batch):
        """One update of the policy and of its moving average."""
        metrics = self.minimize("policy", self.actor_loss, batch)
        self.finish_step()
        return metrics


def main(smoothness=1.0, updates=300):
    """Train on the sample in the package; returns the last value of the smoothness term."""
    torch.manual_seed(0)
    spaces = Spaces(obs_dim=11, action_low=[-1.0] * 3, action_high=[1.0] * 3)
    agent = SmoothBC(spaces, SmoothBCConfig(smoothness=smoothness), total_steps=updates)
    data = agent.prepare(resolve_dataset("hopper-medium", source="sample"))
    for _ in range(updates):
        metrics = agent.update(data.sample(256))
    print(f"E‖π(s', 0) − π(s, 0)‖² = {metrics['actor/jerk']:.3f}")
    return float(metrics["actor/jerk"])


if __name__ == "__main__":
    main()
