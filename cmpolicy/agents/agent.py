"""What every agent shares: a policy, its average, optimisers, and the count of updates."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cmpolicy.consistency.ema import ema_update
from cmpolicy.datasets.transitions import Batch
from cmpolicy.policy import ConsistencyPolicy

M = TypeVar("M", bound=nn.Module)
Metrics = dict[str, Tensor]  # scalars on the device; nobody reads them between two logs


class Agent(nn.Module):
    """A learner for one seed. A subclass writes losses and `update`.

    Attributes:
        policy: the actor that is trained.
        average_policy: the exponential moving average of it, which acts and gives targets.
        step: number of updates done, () int64 on the device.
        total_steps: length K of the training, for curricula.
    """

    step: Tensor

    def __init__(self, policy: ConsistencyPolicy, total_steps: int, ema_decay: float) -> None:
        super().__init__()
        self.policy = policy
        self.average_policy = frozen_copy(policy)
        self.total_steps = total_steps
        self.ema_decay = ema_decay
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.max_grad_norm: float = 0.0
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def progress(self) -> Tensor:
        """k/K ∈ [0, 1], () float32 on the device."""
        return (self.step.float() / self.total_steps).clamp(max=1.0)

    def update(self, batch: Batch) -> Metrics:
        """One update of everything; returns scalars that stay on the device."""
        raise NotImplementedError

    def minimize(self, name: str, loss: Tensor) -> None:
        """One optimiser step on `loss`, for the parameters of optimiser `name` alone.

        Gradients of nothing else are computed, so an actor's loss costs no critic's gradients.
        """
        optimizer = self.optimizers[name]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters), strict=True
        ):
            parameter.grad = gradient
        if self.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(parameters, self.max_grad_norm, foreach=True)
        optimizer.step()

    def finish_step(self) -> None:
        """Move the averages of the policy and count the update."""
        self.policy.update_target(self.progress)
        ema_update(self.average_policy, self.policy, self.ema_decay)
        self.step += 1

    def training_state(self) -> dict[str, Any]:
        """Everything that a resumed training needs."""
        optimizers = {name: o.state_dict() for name, o in self.optimizers.items()}
        return {"modules": dict(self.state_dict()), "optimizers": optimizers}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `training_state` gave."""
        self.load_state_dict(state["modules"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])


def frozen_copy(module: M) -> M:
    """A copy that starts equal and takes no gradient."""
    return copy.deepcopy(module).requires_grad_(False)


def adam(module: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Adam over the parameters of `module` that train, in one fused kernel."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)
