"""Weighted behaviour cloning: the consistency loss, with good episodes imitated more often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cmpolicy.agents.agent import AgentConfig
from cmpolicy.agents.bc import BCConfig, ConsistencyBC
from cmpolicy.datasets.transitions import TransitionDataset


@dataclass
class WeightedBCConfig(BCConfig):
    """Hyperparameters of WeightedBC.

    Attributes:
        return_temperature: α of the weights ∝ exp(G/α) by which actions are drawn, G their
            episode's return scaled to [0, 1] over the data.
    """

    algorithm: str = "weighted_bc"
    name: str = "weighted_bc"
    return_temperature: float = 0.1
    mode_of: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.return_temperature <= 0:
            raise ValueError(f"need return_temperature > 0, got {self.return_temperature}")


class WeightedBC(ConsistencyBC):
    """Consistency-BC on return-weighted data (Hong et al. 2023, eq. 8)."""

    Config: ClassVar[type[AgentConfig]] = WeightedBCConfig
    config: WeightedBCConfig

    def prepare(self, dataset: TransitionDataset) -> TransitionDataset:
        """Measure the data's statistics; actions of good episodes are imitated more often."""
        weighted = dataset.weighted_by_return(self.config.return_temperature)
        return super().prepare(weighted)
