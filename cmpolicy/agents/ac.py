"""Consistency-AC: a consistency policy guided by an ensemble of critics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from cmpolicy.agents.agent import Agent, AgentConfig, Metrics, Spaces, adam, frozen_copy
from cmpolicy.consistency.ema import ema_update
from cmpolicy.datasets.transitions import Batch, TransitionDataset
from cmpolicy.networks.critic import EnsembleCritic


@dataclass
class ACConfig(AgentConfig):
    """Hyperparameters of ConsistencyAC.

    Attributes:
        eta: η, weight of the Q-guidance.
        beta: β, advantage weighting of the consistency loss.
        discount: γ.
        tau: rate at which the target critic follows.
        critic_learning_rate: of Adam, for the critics.
        critic_hidden, critic_ensemble, critic_activation, critic_layer_norm: see `EnsembleCritic`.
        max_q_backup: the target takes the best of ten actions (Kumar et al. 2020, for AntMaze).
        normalize_target: divide targets by their standard deviation, as the published code
            does on some tasks.
        candidates: actions drawn an observation when acting; one is taken with probability
            ∝ exp Q.
    """

    algorithm: str = "ac"
    name: str = "ac"
    eta: float = 0.1
    beta: float = 0.0
    discount: float = 0.99
    tau: float = 0.01
    critic_learning_rate: float = 3e-4
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256])
    critic_ensemble: int = 2
    critic_activation: str = "silu"
    critic_layer_norm: bool = True
    max_q_backup: bool = False
    normalize_target: bool = False
    candidates: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta < 0 or not 0 <= self.discount < 1 or not 0 < self.tau <= 1:
            raise ValueError(
                "need eta ≥ 0, 0 ≤ discount < 1 and 0 < tau ≤ 1, got "
                f"{self.eta}, {self.discount} and {self.tau}"
            )


class ConsistencyAC(Agent):
    """Consistency-AC (Ding & Jin 2024, Algorithm 1)."""

    Config: ClassVar[type[AgentConfig]] = ACConfig
    config: ACConfig

    def __init__(self, spaces: Spaces, config: ACConfig, total_steps: int) -> None:
        super().__init__(spaces, config, total_steps)
        self.critic = EnsembleCritic(
            spaces.obs_dim,
            spaces.action_dim,
            config.critic_hidden,
            config.critic_ensemble,
            config.critic_activation,
            config.critic_layer_norm,
        )
        self.target_critic = frozen_copy(self.critic)
        self.candidates = config.candidates
        self.optimizers["critic"] = adam(self.critic, config.critic_learning_rate)
        self.optimizers["policy"] = adam(self.policy, config.learning_rate)

    def fit_normalizers(self, dataset: TransitionDataset) -> None:
        """Measure the statistics of the data; critics see observations as the policy does."""
        super().fit_normalizers(dataset)
        for critic in (self.critic, self.target_critic):
            critic.obs_mean.copy_(self.policy.obs_mean)
            critic.obs_std.copy_(self.policy.obs_std)

    def next_value(self, next_observations: Tensor) -> Tensor:
        """min_e Q'_e(s', π'(s')), (B,); with `max_q_backup` the largest of ten draws."""
        draws = 10 if self.config.max_q_backup else 1
        obs = next_observations.repeat_interleave(draws, dim=0)
        q = self.target_critic(obs, self.average_policy(obs))
        return q.view(q.shape[0], -1, draws).amax(2).amin(0)  # type: ignore[no-any-return]

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Σ_e (Q_e(s, a) − y)², y = r + γ (1 − terminal) min_e Q'_e(s', π'(s'))."""
        with torch.no_grad():
            bootstrap = (1 - batch.terminals) * self.next_value(batch.next_observations)
            y = batch.rewards + self.config.discount * bootstrap
            if self.config.normalize_target:
                y = y / (y.std() + 1e-6)
        q = self.critic(batch.observations, batch.actions)
        loss = (q - y).square().mean(1).sum()
        return loss, {"critic/loss": loss.detach(), "critic/q": q.detach().mean()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """L_consistency(a | s) − η Q(s, π(s)) / |Q|."""
        consistency = self.policy.loss(batch.observations, batch.actions, self.progress)
        q = self.critic(batch.observations, self.policy(batch.observations))
        guidance = -q.mean() / q.detach().abs().mean()
        loss = consistency + self.config.eta * guidance
        return loss, {
            "actor/consistency_loss": consistency.detach(),
            "actor/q": q.detach().mean(),
        }

    def update(self, batch: Batch) -> Metrics:
        """Algorithm 1: critics, their targets, the actor, its average."""
        critic_loss, critic_metrics = self.critic_loss(batch)
        self.minimize("critic", critic_loss)
        ema_update(self.target_critic, self.critic, 1 - self.config.tau)
        actor_loss, actor_metrics = self.actor_loss(batch)
        self.minimize("policy", actor_loss)
        self.finish_step()
        return {**critic_metrics, **actor_metrics}

    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min_e Q'_e(s, a), (B,)."""
        return self.target_critic(observations, actions).amin(0)  # type: ignore[no-any-return]
