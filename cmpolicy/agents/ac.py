"""Consistency-AC: a consistency policy guided by an ensemble of critics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cmpolicy.agents.agent import AgentConfig, Metrics
from cmpolicy.agents.critic_agent import CriticAgent, CriticConfig
from cmpolicy.consistency.ema import ema_update
from cmpolicy.consistency.randomness import uniform
from cmpolicy.datasets.transitions import TransitionBatch, TransitionDataset

Q_UNITS = ("gradient", "value")


@dataclass
class ACConfig(CriticConfig):
    """Hyperparameters of ConsistencyAC.

    Attributes:
        weight_decay: without it the policy learns the noise of good episodes by heart, where these
            are few.
        eta: η, weight of the Q-guidance.
        q_unit: what the guidance is measured in: ``gradient``, E‖∇_a Q‖, or ``value``, as
            published, where one critic guides, drawn anew for each update, in units of another's
            E|Q|. Where rewards are nearly all for staying alive, |Q| says nothing of how much
            actions matter.
        return_temperature: α of the weights ∝ exp(G/α) by which actions are imitated, G their
            episode's return scaled to [0, 1]; 0 for all alike.
        scale_rewards: scale rewards such that values are of order one.
        max_q_backup: the target takes the best of ten actions (Kumar et al. 2020, for AntMaze).
        normalize_target: divide targets by their standard deviation, as the published code
            does on some tasks.
    """

    algorithm: str = "ac"
    name: str = "ac"
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    cosine_decay: bool = True
    eta: float = 0.001
    q_unit: str = "gradient"
    n_step: int = 20
    return_temperature: float = 0.1
    scale_rewards: bool = True
    max_q_backup: bool = False
    normalize_target: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta < 0 or self.return_temperature < 0:
            raise ValueError(
                f"need eta ≥ 0 and return_temperature ≥ 0, got {self.eta} and "
                f"{self.return_temperature}"
            )
        if self.q_unit not in Q_UNITS:
            raise ValueError(
                f"unknown q_unit {self.q_unit!r}, expected one of {', '.join(Q_UNITS)}"
            )


class ConsistencyAC(CriticAgent):
    """Consistency-AC (Ding & Jin 2024, Algorithm 1) with n-step targets."""

    Config: ClassVar[type[AgentConfig]] = ACConfig
    config: ACConfig

    def prepare(self, dataset: TransitionDataset) -> TransitionDataset:
        """As of every agent with critics; actions of good episodes are imitated more often."""
        temperature = self.config.return_temperature
        weighted = dataset.weighted_by_return(temperature) if temperature else dataset
        return super().prepare(weighted)

    def scale_of_rewards(self, dataset: TransitionDataset) -> float | Tensor:
        """(1 − γ)/E|r|, which makes values of order one."""
        if not self.config.scale_rewards:
            return 1.0
        return (1 - self.config.discount) / dataset.rewards.abs().mean().clamp_min(1e-6)

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
        """L_consistency(a | s) − η Q(s, π(s)) / unit, of imitated actions."""
        observations = batch.imitated_observations
        consistency = self.policy.loss(observations, batch.imitated_actions, self.progress)
        guidance, q = self.guidance(observations, self.policy(observations))
        return consistency + self.config.eta * guidance, {
            "actor/consistency_loss": consistency.detach(),
            "actor/q": q,
        }

    def guidance(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """What has the gradient −∇_a Q / unit with respect to actions, (); and E[Q], ()."""
        if self.config.q_unit == "value":
            members = self.config.critic_ensemble
            member = (members * uniform((), observations)).long()
            q = self.critic.one(member, observations, actions)
            with torch.no_grad():
                other = self.critic.one((member + 1) % members, observations, actions)
            return -q.mean() / other.abs().mean(), q.detach().mean()

        def value(a: Tensor) -> tuple[Tensor, Tensor]:
            q = self.critic(observations, a).mean(0)
            return q.sum(), q.mean()

        slope, q = torch.func.grad(value, has_aux=True)(actions.detach())
        slope, q = slope.detach(), q.detach()
        unit = torch.linalg.vector_norm(slope, dim=1).mean().clamp_min(1e-12)
        return -(slope / unit * actions).sum(1).mean(), q

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
