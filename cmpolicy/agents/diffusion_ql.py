"""Diffusion-QL: a diffusion policy of a few steps, guided by twin critics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from cmpolicy.agents.agent import Agent, AgentConfig, Metrics, Spaces, adam, frozen_copy
from cmpolicy.consistency.ema import ema_update
from cmpolicy.datasets.transitions import Batch, TransitionDataset
from cmpolicy.diffusion_policy import DiffusionPolicy, DiffusionPolicyConfig
from cmpolicy.networks.critic import EnsembleCritic
from cmpolicy.networks.mlp import ACTIVATIONS


@dataclass
class DiffusionQLConfig(AgentConfig):
    """Hyperparameters of DiffusionQL; the networks are those of `ac`, the rest is published.

    Attributes:
        policy: see `DiffusionPolicyConfig`.
        eta: η, weight of the Q-guidance.
        discount: γ.
        tau: rate at which the target critics follow.
        critic_learning_rate: of Adam, for the critics.
        critic_hidden, critic_activation, critic_layer_norm: see `EnsembleCritic`.
        max_q_backup: the target takes the best of ten actions (Kumar et al. 2020, for AntMaze).
        candidates: actions drawn an observation when acting; one is taken with probability
            ∝ exp Q.
    """

    algorithm: str = "diffusion_ql"
    name: str = "diffusion_ql"
    policy: DiffusionPolicyConfig = field(default_factory=DiffusionPolicyConfig)
    eta: float = 1.0
    discount: float = 0.99
    tau: float = 0.005
    critic_learning_rate: float = 3e-4
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256])
    critic_activation: str = "silu"
    critic_layer_norm: bool = True
    max_q_backup: bool = False
    candidates: int = 50

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
        if min(self.candidates, *self.critic_hidden) < 1 or self.critic_learning_rate <= 0:
            raise ValueError("candidates, critic_hidden and critic_learning_rate must be positive")


class DiffusionQL(Agent):
    """Diffusion-QL (Wang et al. 2023, Algorithm 1), its denoiser EDM's."""

    Config: ClassVar[type[AgentConfig]] = DiffusionQLConfig
    config: DiffusionQLConfig

    def __init__(self, spaces: Spaces, config: DiffusionQLConfig, total_steps: int) -> None:
        super().__init__(spaces, config, total_steps)
        self.policy = DiffusionPolicy(
            spaces.obs_dim,
            spaces.action_dim,
            spaces.action_low,
            spaces.action_high,
            config.policy,
        )
        self.average_policy = frozen_copy(self.policy)
        self.critic = EnsembleCritic(
            spaces.obs_dim,
            spaces.action_dim,
            config.critic_hidden,
            2,
            config.critic_activation,
            config.critic_layer_norm,
        )
        self.target_critic = frozen_copy(self.critic)
        self.candidates = config.candidates
        self.optimizers["critic"] = adam(self.critic, config.critic_learning_rate)
        self.optimizers["policy"] = adam(self.policy, config.learning_rate)

    def prepare(self, dataset: TransitionDataset) -> TransitionDataset:
        """Measure the statistics."""
        dataset = super().prepare(dataset)
        for critic in (self.critic, self.target_critic):
            critic.obs_mean.copy_(self.policy.obs_mean)
            critic.obs_std.copy_(self.policy.obs_std)
        return dataset

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensor:
        """y = r + γ (1 − terminal) min_e Q'_e(s', a'), a' ~ π'(s'), (B,): eq. 4."""
        draws = 10 if self.config.max_q_backup else 1
        obs = batch.next_observations.repeat_interleave(draws, dim=0)
        q = self.target_critic(obs, self.average_policy(obs))
        best = q.view(q.shape[0], -1, draws).amax(2).amin(0)
        y: Tensor = batch.rewards + self.config.discount * (1 - batch.terminals) * best
        return y

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Σ_e E[(Q_e(s, a) − y)²]: eq. 4."""
        y = self.target(batch)
        q = self.critic(batch.observations, batch.actions)
        loss = (q - y).square().mean(1).sum()
        return loss, {"critic/loss": loss.detach(), "critic/q": q.detach().mean()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """L_d(a | s) − η E[Q(s, a₀)]/E[|Q|], a₀ ~ π(s) through all its steps: eq. 3.

        The published code divides either critic by the other's size, by the toss of a coin; this
        is the mean of the two.
        """
        denoising = self.policy.loss(batch.observations, batch.actions, self.progress)
        q = self.critic(batch.observations, self.policy(batch.observations))
        size = q.detach().abs().mean(1).flip(0)
        guidance = -(q.mean(1) / size).mean()
        return denoising + self.config.eta * guidance, {
            "actor/denoising_loss": denoising.detach(),
            "actor/q": q.detach().mean(),
        }

    def update(self, batch: Batch) -> Metrics:
        """Algorithm 1: critics, the actor, the averages of both."""
        critic_metrics = self.minimize("critic", self.critic_loss, batch)
        actor_metrics = self.minimize("policy", self.actor_loss, batch)
        ema_update(self.target_critic, self.critic, 1 - self.config.tau)
        self.finish_step()
        return {**critic_metrics, **actor_metrics}

    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min_e Q'_e(s, a), (B,)."""
        return self.target_critic(observations, actions).amin(0)  # type: ignore[no-any-return]
