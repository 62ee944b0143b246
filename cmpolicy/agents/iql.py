"""IQL with a consistency policy: expectile critics, advantage-weighted consistency training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from cmpolicy.agents.agent import Agent, AgentConfig, Metrics, Spaces, adam, frozen_copy
from cmpolicy.consistency.ema import ema_update
from cmpolicy.datasets.transitions import Batch, TransitionDataset, n_step
from cmpolicy.networks.critic import EnsembleCritic
from cmpolicy.networks.mlp import ACTIVATIONS


@dataclass
class IQLConfig(AgentConfig):
    """Hyperparameters of ConsistencyIQL; the defaults are the paper's for locomotion.

    Attributes:
        expectile: τ of the value function, between ½ (the behaviour's value) and 1 (the best
            action in the data).
        temperature: β, inverse temperature of the advantage weights exp(β A).
        max_weight: where these weights are clipped.
        return_range: rewards are scaled such that the best and the worst episode differ by this
            much, which gives β its unit; 0 leaves them as they are.
        discount: γ.
        n_step: length of the critics' targets, in steps of one episode.
        tau: rate at which the target critic follows.
        critic_learning_rate: of Adam, for the critics and the value function.
        critic_hidden, critic_activation, critic_layer_norm: see `EnsembleCritic`.
        candidates: actions drawn an observation when acting; one is taken with probability
            ∝ exp Q.
    """

    algorithm: str = "iql"
    name: str = "iql"
    expectile: float = 0.7
    temperature: float = 3.0
    max_weight: float = 100.0
    return_range: float = 1000.0
    discount: float = 0.99
    n_step: int = 1
    tau: float = 0.005
    critic_learning_rate: float = 3e-4
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256])
    critic_activation: str = "silu"
    critic_layer_norm: bool = True
    candidates: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.expectile < 1 or not 0 <= self.discount < 1 or not 0 < self.tau <= 1:
            raise ValueError(
                "need 0 < expectile < 1, 0 ≤ discount < 1 and 0 < tau ≤ 1, got "
                f"{self.expectile}, {self.discount} and {self.tau}"
            )
        if self.temperature < 0 or self.return_range < 0 or self.max_weight <= 0:
            raise ValueError(
                "need temperature ≥ 0, return_range ≥ 0 and max_weight > 0, got "
                f"{self.temperature}, {self.return_range} and {self.max_weight}"
            )
        if self.critic_activation not in ACTIVATIONS:
            raise ValueError(
                f"unknown critic_activation {self.critic_activation!r}, "
                f"expected one of {', '.join(ACTIVATIONS)}"
            )
        counts = (self.n_step, self.candidates, *self.critic_hidden)
        if min(counts) < 1 or self.critic_learning_rate <= 0:
            raise ValueError(
                "n_step, candidates, critic_hidden and critic_learning_rate must be positive"
            )


class ConsistencyIQL(Agent):
    """IQL (Kostrikov et al. 2022, Algorithm 1), its actor a consistency model.

    No action but the data's enters training: the policy is never sampled.
    """

    Config: ClassVar[type[AgentConfig]] = IQLConfig
    config: IQLConfig
    reward_scale: Tensor

    def __init__(self, spaces: Spaces, config: IQLConfig, total_steps: int) -> None:
        super().__init__(spaces, config, total_steps)
        network = (config.critic_activation, config.critic_layer_norm)
        self.critic = EnsembleCritic(
            spaces.obs_dim, spaces.action_dim, config.critic_hidden, 2, *network
        )
        self.target_critic = frozen_copy(self.critic)
        # V(s): a critic of actions with no entries
        self.state_critic = EnsembleCritic(spaces.obs_dim, 0, config.critic_hidden, 1, *network)
        self.candidates = config.candidates
        self.register_buffer("reward_scale", torch.ones(()))
        self.optimizers["state_critic"] = adam(self.state_critic, config.critic_learning_rate)
        self.optimizers["critic"] = adam(self.critic, config.critic_learning_rate)
        self.optimizers["policy"] = adam(self.policy, config.learning_rate)

    def prepare(self, dataset: TransitionDataset) -> TransitionDataset:
        """Measure the statistics; the data becomes transitions over `n_step` steps."""
        super().prepare(dataset)
        for critic in (self.critic, self.target_critic, self.state_critic):
            critic.obs_mean.copy_(self.policy.obs_mean)
            critic.obs_std.copy_(self.policy.obs_std)
        if self.config.return_range > 0:
            returns = dataset.episode_returns()
            spread = float(returns.max() - returns.min())
            self.reward_scale.fill_(self.config.return_range / spread if spread > 0 else 1.0)
        return n_step(dataset, self.config.n_step, self.config.discount)

    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min_e Q̂_e(s, a), (B,), of the target critics."""
        return self.target_critic(observations, actions).amin(0)  # type: ignore[no-any-return]

    def state_value(self, observations: Tensor) -> Tensor:
        """V(s), (B,)."""
        nothing = observations.new_empty(len(observations), 0)
        return self.state_critic(observations, nothing).squeeze(0)  # type: ignore[no-any-return]

    def state_value_loss(self, batch: Batch, q: Tensor) -> tuple[Tensor, Metrics]:
        """L_V = E[L₂^τ(Q̂(s, a) − V(s))]: eq. 5. `q` is Q̂(s, a), (B,)."""
        v = self.state_value(batch.observations)
        loss = expectile_loss(q - v, self.config.expectile).mean()
        return loss, {"value/loss": loss.detach(), "value/v": v.detach().mean()}

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """L_Q = Σ_e E[(r + γ (1 − terminal) V(s') − Q_e(s, a))²]: eq. 6."""
        with torch.no_grad():
            v = self.state_value(batch.next_observations)
            bootstrap = self.config.discount * (1 - batch.terminals) * v
            y = self.reward_scale * batch.rewards + bootstrap
        q = self.critic(batch.observations, batch.actions)
        loss = (q - y).square().mean(1).sum()
        return loss, {"critic/loss": loss.detach(), "critic/q": q.detach().mean()}

    def actor_loss(self, batch: Batch, q: Tensor) -> tuple[Tensor, Metrics]:
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

    def update(self, batch: Batch) -> Metrics:
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
