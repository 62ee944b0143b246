"""Consistency behaviour cloning: the consistency loss alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cmpolicy.agents.agent import Agent, AgentConfig, Metrics
from cmpolicy.datasets.transitions import TransitionBatch


@dataclass
class BCConfig(AgentConfig):
    """What every agent has.

    The clone acts by one sample. The mode of several would remove the behaviour's noise, but on
    data of many behaviours the densest action can be to stand still.
    """

    algorithm: str = "bc"
    name: str = "bc"
    learning_rate: float = 1e-3
    weight_decay: float = 2.5
    cosine_decay: bool = True
    mode_of: int = 1


class ConsistencyBC(Agent):
    """Consistency-BC (Ding & Jin 2024, §4.1): min_θ E_{(s,a)~D} L_consistency(a | s)."""

    Config: ClassVar[type[AgentConfig]] = BCConfig

    def actor_loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        """L_consistency(a | s) of the actions that are imitated."""
        observations, actions = batch.imitated_observations, batch.imitated_actions
        loss = self.policy.loss(observations, actions, self.progress)
        return loss, {"actor/consistency_loss": loss.detach()}

    def update(self, batch: TransitionBatch) -> Metrics:
        """Algorithm: one step on L_consistency."""
        metrics = self.minimize("policy", self.actor_loss, batch)
        self.finish_step()
        return metrics
