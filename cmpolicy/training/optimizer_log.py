"""What the log says of optimisers: the norms of gradients, and learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Optimized(Protocol):
    """A learner with optimisers, by name."""

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]: ...


@runtime_checkable
class Scheduled(Protocol):
    """A learner that computes the rates of its optimisers, which do not know them if compiled."""

    @property
    def learning_rates(self) -> Mapping[str, float]: ...

    def scheduled(self, learning_rate: float, /) -> float | Tensor: ...


class OptimizerLog:
    """Measures one update from the states of Adam before and after it.

    Adam keeps m_k = β₁ m_(k−1) + (1 − β₁) g_k, from which the gradient g_k follows, however the
    update was performed: eagerly, compiled, or as a CUDA graph. It is the one that the optimiser
    took: clipped if gradients are clipped, averaged over processes.

    Args:
        learner: what is trained; nothing is measured unless it, or its `core`, is `Optimized`.
        stacked: whether the first axis of parameters is that of several seeds.
    """

    def __init__(self, learner: Any, *, stacked: bool = False) -> None:
        core = getattr(learner, "core", learner)
        self.learner = core if isinstance(core, Optimized) else None
        self.measures = self.learner is not None
        self.stacked = stacked
        self.before: dict[Tensor, Tensor] = {}

    def begin(self) -> None:
        """Before the update."""
        if self.learner is None:
            return
        for optimizer in self.learner.optimizers.values():
            for parameter, state in optimizer.state.items():
                if "exp_avg" in state:
                    self.before[parameter] = state["exp_avg"].clone()

    def end(self) -> dict[str, Tensor]:
        """After the update: its measures by name, () each, or (R,) of R seeds; on the device."""
        if self.learner is None:
            return {}
        measured = {}
        for name, optimizer in self.learner.optimizers.items():
            squares = list(self.squared_norms(optimizer))
            if squares:
                norm = torch.stack(squares).sum(0).sqrt()
                measured[f"gradient_norm/{name}"] = norm
                measured[f"learning_rate/{name}"] = torch.full_like(
                    norm, self.rate(name, optimizer)
                )
        self.before.clear()
        return measured

    def rate(self, name: str, optimizer: torch.optim.Optimizer) -> float:
        """The learning rate of an optimiser."""
        learner: Any = self.learner
        if isinstance(learner, Scheduled):
            return float(learner.scheduled(learner.learning_rates[name]))
        return float(optimizer.param_groups[0]["lr"])

    def squared_norms(self, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
        """‖g‖² of each parameter that Adam moves."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                if "exp_avg" in state:
                    beta, mean = group["betas"][0], state["exp_avg"]
                    earlier = self.before.get(parameter)
                    kept = 0.0 if earlier is None else beta * earlier
                    gradient = (mean - kept) / (1 - beta)
                    start = 1 if self.stacked else 0
                    yield gradient.flatten(start).square().sum(-1)
