"""Updates carried out one after the other."""

from __future__ import annotations

from cmpolicy.acceleration.compiled_update import Metrics
from cmpolicy.networks.linear import bfloat16_products
from cmpolicy.training.loop import Dataset, Learner


class Updates:
    """One update after the other.

    Args:
        rounded: take large products in bfloat16, see `bfloat16_products`.
    """

    def __init__(
        self, learner: Learner, dataset: Dataset, batch_size: int, *, rounded: bool = False
    ) -> None:
        self.learner, self.dataset, self.batch_size = learner, dataset, batch_size
        self.rounded = rounded

    def update(self) -> Metrics:
        """Draw a batch and learn from it."""
        with bfloat16_products(self.rounded):
            return self.learner.update(self.dataset.sample(self.batch_size))

    def __call__(self, most: int) -> tuple[int, Metrics]:
        return 1, self.update()
