"""Consistency-AC: a consistency policy guided by an ensemble of critics."""

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
class ACConfig(AgentConfig):
    """Hyperparameters of ConsistencyAC.

    Attributes:
        eta: η, weight of the Q-guidance.
        discount: γ.
        n_step: length of the critics' targets, in steps of one episode.
        tau: rate at which the target critic follows.
        critic_learning_rate: of Adam, for the critics.
        critic_hidden, critic_ensemble, critic_activation, critic_layer_norm: see `EnsembleCritic`.
        scale_rewards: scale rewards such that values are of order one.
        max_q_backup: the target takes the best of ten actions (Kumar et al. 2020, for AntMaze).
        normalize_target: divide targets by their standard deviation, as the published code
            does on some tasks.
        candidates: actions drawn an observation when acting; one is taken with probability
            ∝ exp Q.
    """

    algorithm: str = "ac"
    name: str = "ac"
    eta: float = 0.03
    discount: float = 0.99
    n_step: int = 20
    tau: float = 0.005
    critic_learning_rate: float = 3e-4
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256])
    critic_ensemble: int = 2
    critic_activation: str = "silu"
    critic_layer_norm: bool = True
    scale_rewards: bool = True
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
        if self.critic_activation not in ACTIVATIONS:
            raise ValueError(
                f"unknown critic_activation {self.critic_activation!r}, "
                f"expected one of {', '.join(ACTIVATIONS)}"
            )
        counts = (self.n_step, self.candidates, self.critic_ensemble, *self.critic_hidden)
        if min(counts) < 1 or self.critic_learning_rate <= 0:
            raise ValueError(
                "n_step, candidates, critic_ensemble, critic_hidden and critic_learning_rate "
                "must be positive"
            )


class ConsistencyAC(Agent):
    """Consistency-AC (Ding & Jin 2024, Algorithm 1) with n-step targets."""

    Config: ClassVar[type[AgentConfig]] = ACConfig
    config: ACConfig
    reward_scale: Tensor

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
        self.register_buffer("reward_scale", torch.ones(()))
        self.optimizers["critic"] = adam(self.critic, config.critic_learning_rate)
        self.optimizers["policy"] = adam(self.policy, config.learning_rate)

    def prepare(self, dataset: TransitionDataset) -> TransitionDataset:
        """Measure the statistics; the data becomes transitions over `n_step` steps."""
        super().prepare(dataset)
        for critic in (self.critic, self.target_critic):
            critic.obs_mean.copy_(self.policy.obs_mean)
            critic.obs_std.copy_(self.policy.obs_std)
        if self.config.scale_rewards:
            magnitude = dataset.rewards.abs().mean().clamp_min(1e-6)
            self.reward_scale.copy_((1 - self.config.discount) / magnitude)
        return n_step(dataset, self.config.n_step, self.config.discount)

    def next_value(self, next_observations: Tensor) -> Tensor:
        """min_e Q'_e(s', π'(s')), (B,); with `max_q_backup` the largest of ten draws."""
        draws = 10 if self.config.max_q_backup else 1
        obs = next_observations.repeat_interleave(draws, dim=0)
        q = self.target_critic(obs, self.average_policy(obs))
        return q.view(q.shape[0], -1, draws).amax(2).amin(0)  # type: ignore[no-any-return]

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensor:
        """y = r + γ (1 − terminal) min_e Q'_e(s', π'(s')), (B,)."""
        bootstrap = (1 - batch.terminals) * self.next_value(batch.next_observations)
        y: Tensor = self.reward_scale * batch.rewards + self.config.discount * bootstrap
        return y / (y.std() + 1e-6) if self.config.normalize_target else y

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Σ_e (Q_e(s, a) − y)²."""
        y = self.target(batch)
        q = self.critic(batch.observations, batch.actions)
        loss = (q - y).square().mean(1).sum()
        return loss, {"critic/loss": loss.detach(), "critic/q": q.detach().mean()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """L_consistency(a | s) − η Q(s, π(s)) / |Q|."""
        consistency = self.policy.loss(batch.observations, batch.actions, self.progress)
        q = self.critic(batch.observations, self.policy(batch.observations))
        guidance = -q.mean() / q.detach().abs().mean()
        return consistency + self.config.eta * guidance, {
            "actor/consistency_loss": consistency.detach(),
            "actor/q": q.detach().mean(),
        }

    def update(self, batch: Batch) -> Metrics:
        """Algorithm 1: critics, their targets, the actor, its average."""
        critic_metrics = self.minimize("critic", self.critic_loss, batch)
        ema_update(self.target_critic, self.critic, 1 - self.config.tau)
        actor_metrics = self.minimize("policy", self.actor_loss, batch)
        self.finish_step()
        return {**critic_metrics, **actor_metrics}

    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min_e Q'_e(s, a), (B,)."""
        return self.target_critic(observations, actions).amin(0)  # type: ignore[no-any-return]
