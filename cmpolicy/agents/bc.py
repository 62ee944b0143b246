"""Consistency behaviour cloning: the consistency loss alone."""

from __future__ import annotations

from cmpolicy.agents.agent import Agent, Metrics, adam
from cmpolicy.datasets.transitions import Batch
from cmpolicy.policy import ConsistencyPolicy


class ConsistencyBC(Agent):
    """Consistency-BC (Ding & Jin 2024, §4.1): min_θ E_{(s,a)~D} L_consistency(a | s)."""

    def __init__(
        self,
        policy: ConsistencyPolicy,
        *,
        total_steps: int,
        learning_rate: float = 3e-4,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__(policy, total_steps, ema_decay)
        self.optimizers["policy"] = adam(policy, learning_rate)

    def update(self, batch: Batch) -> Metrics:
        loss = self.policy.loss(batch.observations, batch.actions, self.progress)
        self.minimize("policy", loss)
        self.finish_step()
        return {"actor/consistency_loss": loss.detach()}
