"""Eager updates, one at a time."""

from __future__ import annotations

from cmpolicy.acceleration.compiled_update import UpdateMetrics
from cmpolicy.networks.linear import bfloat16_products
from cmpolicy.training.protocols import Dataset, Learner


class Updates:
    """One update at a time.

    Args:
        bfloat16: take large products in bfloat16, see `bfloat16_products`.
    """

    def __init__(
        self, learner: Learner, dataset: Dataset, batch_size: int, *, bfloat16: bool = False
    ) -> None:
        self.learner, self.dataset, self.batch_size = learner, dataset, batch_size
        self.bfloat16 = bfloat16

    def update(self) -> UpdateMetrics:
        """Draw a batch and learn from it."""
        with bfloat16_products(self.bfloat16):
            return self.learner.update(self.dataset.sample(self.batch_size))

    def __call__(self, most: int) -> tuple[int, UpdateMetrics]:
        return 1, self.update()
