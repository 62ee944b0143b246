"""Consistency-AC as published by Ding & Jin (2024): the consistency loss plus Q in units of |Q|."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cmpolicy.agents.agent import AgentConfig, Metrics
from cmpolicy.agents.critic_agent import CriticAgent, CriticConfig
from cmpolicy.consistency.ema import ema_update
from cmpolicy.consistency.randomness import uniform
from cmpolicy.datasets.transitions import TransitionBatch


@dataclass
class DingJinACConfig(CriticConfig):
    """Hyperparameters of DingJinAC.

    Attributes:
        eta: η, weight of the Q-guidance.
        max_q_backup: the target takes the best of ten actions (Kumar et al. 2020, for AntMaze).
        normalize_target: divide targets by their standard deviation, as the published code
            does on some tasks.
    """

    algorithm: str = "ac_ding_jin"
    name: str = "ac_ding_jin"
    eta: float = 1.0
    max_q_backup: bool = False
    normalize_target: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta < 0:
            raise ValueError(f"need eta ≥ 0, got {self.eta}")


class DingJinAC(CriticAgent):
    """Consistency-AC (Ding & Jin 2024, Algorithm 1)."""

    Config: ClassVar[type[AgentConfig]] = DingJinACConfig
    config: DingJinACConfig

    def next_value(self, next_observations: Tensor) -> Tensor:
        """min_e Q'_e(s', π'(s')), (B,); with `max_q_backup` the largest of ten draws."""
        draws = 10 if self.config.max_q_backup else 1
        obs = next_observations.repeat_interleave(draws, dim=0)
        q = self.target_critic(obs, self.average_policy(obs))
        return q.view(q.shape[0], -1, draws).amax(2).amin(0)  # type: ignore[no-any-return]

    @torch.no_grad()
    def target(self, batch: TransitionBatch) -> Tensor:
        """y = r + γ (1 − terminal) min_e Q'_e(s', π'(s')), (B,)."""
        bootstrap = (1 - batch.terminals) * self.next_value(batch.next_observations)
        y: Tensor = self.reward_scale * batch.rewards + self.config.discount * bootstrap
        return y / (y.std() + 1e-6) if self.config.normalize_target else y

    def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        """Σ_e (Q_e(s, a) − y)²."""
        return self.squared_error(batch, self.target(batch))

    def actor_loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        """L_consistency(a | s) − η Q(s, π(s)) / E|Q|."""
        observations = batch.observations
        consistency = self.policy.loss(observations, batch.actions, self.progress)
        guidance, q = self.guidance(observations, self.policy(observations))
        return consistency + self.config.eta * guidance, {
            "actor/consistency_loss": consistency.detach(),
            "actor/q": q,
        }

    def guidance(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """−E[Q_e]/E|Q_e'| and E[Q_e], each (): e is drawn anew for each update, e' is the next."""
        members = self.config.critic_ensemble
        member = (members * uniform((), observations)).long()
        q = self.critic.one(member, observations, actions)
        with torch.no_grad():
            other = self.critic.one((member + 1) % members, observations, actions)
        return -q.mean() / other.abs().mean(), q.detach().mean()

    def update(self, batch: TransitionBatch) -> Metrics:
        """Algorithm 1: critics, their targets, the actor, its average."""
        critic_metrics = self.minimize("critic", self.critic_loss, batch)
        ema_update(self.target_critic, self.critic, 1 - self.config.tau)
        actor_metrics = self.minimize("policy", self.actor_loss, batch)
        self.finish_step()
        return {**critic_metrics, **actor_metrics}

    def limits(self) -> dict[str, tuple[float, str]]:
        """None for normalised targets: their unit is their own spread, not the data's."""
        return {} if self.config.normalize_target else super().limits()
