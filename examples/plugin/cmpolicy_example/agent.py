"""Behaviour cloning that acts alike in consecutive states, which spares a robot's motors."""

from dataclasses import dataclass

import torch

from cmpolicy import Agent, AgentConfig


@dataclass
class SmoothBCConfig(AgentConfig):
    """Every agent's hyperparameters, and the weight of the smoothness term."""

    algorithm: str = "smooth_bc"
    name: str = "smooth_bc"
    smoothness: float = 1.0


class SmoothBC(Agent):
    """L_consistency(a | s) + smoothness · E‖π(s', 0) − π(s, 0)‖² (Mysore et al. 2021)."""

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
