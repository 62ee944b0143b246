"""IQL with a consistency policy: expectile critics, advantage-weighted consistency training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cmpolicy.agents.agent import AgentConfig, Metrics, Spaces
from cmpolicy.agents.critic_agent import CriticAgent, CriticConfig
from cmpolicy.consistency.ema import ema_update
from cmpolicy.datasets.transitions import TransitionBatch, TransitionDataset


@dataclass
class IQLConfig(CriticConfig):
    """Hyperparameters of ConsistencyIQL; the defaults are the paper's for locomotion.

    Attributes:
        expectile: τ of the value function, between ½ (the behaviour's value) and 1 (the best
            action in the data).
        temperature: β, inverse temperature of the advantage weights exp(β A).
        max_weight: where these weights are clipped.
        return_range: rewards are scaled such that the best and the worst episode differ by this
            much, which gives β its unit; 0 leaves them as they are.
    """

    algorithm: str = "iql"
    name: str = "iql"
    expectile: float = 0.7
    temperature: float = 3.0
    max_weight: float = 100.0
    return_range: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.expectile < 1 or self.temperature < 0:
            raise ValueError(
                f"need 0 < expectile < 1 and temperature ≥ 0, got {self.expectile} "
                f"and {self.temperature}"
            )
        if self.return_range < 0 or self.max_weight <= 0:
            raise ValueError(
                f"need return_range ≥ 0 and max_weight > 0, got {self.return_range} "
                f"and {self.max_weight}"
            )


class ConsistencyIQL(CriticAgent):
    """IQL (Kostrikov et al. 2022, Algorithm 1), its actor a consistency model.

    No action but the data's enters training: the policy is never sampled.
    """

    Config: ClassVar[type[AgentConfig]] = IQLConfig
    config: IQLConfig

    def __init__(self, spaces: Spaces, config: IQLConfig, total_steps: int) -> None:
        super().__init__(spaces, config, total_steps)
        self.state_critic = self.make_critic(action_dim=0, ensemble=1)
        self.add_optimizer("state_critic", self.state_critic, config.critic_learning_rate)

    def scale_of_rewards(self, dataset: TransitionDataset) -> float | Tensor:
        """What makes the best and the worst episode differ by `return_range`."""
        returns = dataset.episode_returns()
        spread = float(returns.max() - returns.min())
        asked = self.config.return_range
        return asked / spread if asked > 0 and spread > 0 else 1.0

    def state_value(self, observations: Tensor) -> Tensor:
        """V(s), (B,)."""
        nothing = observations.new_empty(len(observations), 0)
        return self.state_critic(observations, nothing).squeeze(0)  # type: ignore[no-any-return]

    def state_value_loss(self, batch: TransitionBatch, q: Tensor) -> tuple[Tensor, Metrics]:
        """L_V = E[L₂^τ(Q̂(s, a) − V(s))]: eq. 5. `q` is Q̂(s, a), (B,)."""
        v = self.state_value(batch.observations)
        loss = expectile_loss(q - v, self.config.expectile).mean()
        return loss, {"value/loss": loss.detach(), "value/v": v.detach().mean()}

    def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        """L_Q = Σ_e E[(r + γ (1 − terminal) V(s') − Q_e(s, a))²]: eq. 6."""
        with torch.no_grad():
            v = self.state_value(batch.next_observations)
            bootstrap = self.config.discount * (1 - batch.terminals) * v
            y = self.reward_scale * batch.rewards + bootstrap
        return self.squared_error(batch, y)

    def actor_loss(self, batch: TransitionBatch, q: Tensor) -> tuple[Tensor, Metrics]:
        """E[min(exp(β (Q̂(s, a) − V(s))), w_max) L_consistency(a | s)]: eq. 7."""
        with torch.no_grad():
            advantage = q - self.state_value(batch.observations)
            weight = (self.config.temperature * advantage).exp().clamp(max=self.config.max_weight)
        loss = self.policy.loss(batch.observations, batch.actions, self.progress, weight)
        return loss, {
            "actor/weighted_loss": loss.detach(),
            "actor/weight": weight.mean(),
            "actor/clipped": (weight == self.config.max_weight).float().mean(),
        }

    def update(self, batch: TransitionBatch) -> Metrics:
        """Algorithm 1: the value function, the critics, their targets; then the actor."""
        with torch.no_grad():
            q = self.vectorize(self.value)(batch.observations, batch.actions)
        value_metrics = self.minimize("state_critic", self.state_value_loss, batch, q)
        critic_metrics = self.minimize("critic", self.critic_loss, batch)
        ema_update(self.target_critic, self.critic, 1 - self.config.tau)
        actor_metrics = self.minimize("policy", self.actor_loss, batch, q)
        self.finish_step()
        return {**value_metrics, **critic_metrics, **actor_metrics}


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """L₂^τ(u) = |τ − 1(u < 0)| u²: asymmetric least squares, any shape."""
    weight = torch.where(difference < 0, 1 - expectile, expectile)
    return weight * difference.square()
