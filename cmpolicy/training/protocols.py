"""What the loop trains, and what it draws batches from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch


class EvaluationFailed(RuntimeError):
    """What the learner is evaluated in failed; the learner itself is as it was."""


class Learner(Protocol):
    """What the loop trains."""

    def update(self, batch: Any, /) -> Mapping[str, torch.Tensor]:
        """One update; scalars stay on the device."""
        ...

    def limits(self) -> Mapping[str, tuple[float, str]]:
        """Scalars of `update` that must stay below a bound: (bound, what it is and what to try)."""
        ...

    def training_state(self) -> dict[str, Any]: ...

    def load_training_state(self, state: Mapping[str, Any], /) -> None: ...


class Dataset(Protocol):
    """What the loop draws batches from."""

    def sample(self, batch_size: int, /) -> Any: ...


@runtime_checkable
class GrowingDataset(Dataset, Protocol):
    """A dataset that changes during training, and what is saved of it."""

    def scalars(self) -> Mapping[str, float]:
        """What the log says of it."""
        ...

    def training_state(self) -> dict[str, Any]: ...

    def load_training_state(self, state: Mapping[str, Any], /) -> None: ...
