"""Diffusion-QL: a diffusion policy of a few steps, guided by twin critics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from cmpolicy.agents.agent import AgentConfig, Metrics
from cmpolicy.agents.critic_agent import CriticAgent, CriticConfig
from cmpolicy.consistency.ema import ema_update
from cmpolicy.datasets.transitions import TransitionBatch
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.policy.diffusion_policy import DiffusionPolicy, DiffusionPolicyConfig


@dataclass
class DiffusionQLConfig(CriticConfig):
    """Hyperparameters of DiffusionQL; the networks are those of `ac`, the rest is published.

    Attributes:
        policy: see `DiffusionPolicyConfig`.
        eta: η, weight of the Q-guidance.
        max_q_backup: the target takes the best of ten actions (Kumar et al. 2020, for AntMaze).
    """

    algorithm: str = "diffusion_ql"
    name: str = "diffusion_ql"
    policy: DiffusionPolicyConfig = field(default_factory=DiffusionPolicyConfig)
    eta: float = 1.0
    max_q_backup: bool = False
    candidates: int = 50
    mode_of: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta < 0:
            raise ValueError(f"need eta ≥ 0, got {self.eta}")


class DiffusionQL(CriticAgent):
    """Diffusion-QL (Wang et al. 2023, Algorithm 1), its denoiser EDM's."""

    Config: ClassVar[type[AgentConfig]] = DiffusionQLConfig
    Policy: ClassVar[type[ConsistencyPolicy]] = DiffusionPolicy
    config: DiffusionQLConfig

    @torch.no_grad()
    def target(self, batch: TransitionBatch) -> Tensor:
        """y = r + γ (1 − terminal) min_e Q'_e(s', a'), a' ~ π'(s'), (B,): eq. 4."""
        draws = 10 if self.config.max_q_backup else 1
        obs = batch.next_observations.repeat_interleave(draws, dim=0)
        q = self.target_critic(obs, self.average_policy(obs))
        best = q.view(q.shape[0], -1, draws).amax(2).amin(0)
        y: Tensor = (
            self.reward_scale * batch.rewards + self.config.discount * (1 - batch.terminals) * best
        )
        return y

    def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        """Σ_e E[(Q_e(s, a) − y)²]: eq. 4."""
        return self.squared_error(batch, self.target(batch))

    def actor_loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
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

    def update(self, batch: TransitionBatch) -> Metrics:
        """Algorithm 1: critics, the actor, the averages of both."""
        critic_metrics = self.minimize("critic", self.critic_loss, batch)
        actor_metrics = self.minimize("policy", self.actor_loss, batch)
        ema_update(self.target_critic, self.critic, 1 - self.config.tau)
        self.finish_step()
        return {**critic_metrics, **actor_metrics}
