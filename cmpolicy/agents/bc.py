"""Consistency behaviour cloning: the consistency loss alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cmpolicy.agents.agent import Agent, AgentConfig, Metrics
from cmpolicy.datasets.transitions import TransitionBatch


@dataclass
class BCConfig(AgentConfig):
    """Nothing beyond what every agent has."""

    algorithm: str = "bc"
    name: str = "bc"


class ConsistencyBC(Agent):
    """Consistency-BC (Ding & Jin 2024, §4.1): min_θ E_{(s,a)~D} L_consistency(a | s)."""

    Config: ClassVar[type[AgentConfig]] = BCConfig

    def actor_loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        """L_consistency(a | s)."""
        loss = self.policy.loss(batch.observations, batch.actions, self.progress)
        return loss, {"actor/consistency_loss": loss.detach()}

    def update(self, batch: TransitionBatch) -> Metrics:
        """Algorithm: one step on L_consistency."""
        metrics = self.minimize("policy", self.actor_loss, batch)
        self.finish_step()
        return metrics
