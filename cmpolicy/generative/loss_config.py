"""Configure a loss and its training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cmpolicy.consistency.discrete import DiscreteConsistency
from cmpolicy.consistency.loss_metrics import Metric
from cmpolicy.consistency.losses import DIFFUSIONS, DISTILLATIONS, LOSSES, Loss
from cmpolicy.consistency.parameterization import PARAMETERIZATIONS
from cmpolicy.plugins import find

OPTIMIZERS = ("adam", "radam")
SCHEDULES = ("cosine", "constant")
ALL_LOSSES: dict[str, Callable[..., Loss]] = {**LOSSES, **DISTILLATIONS, **DIFFUSIONS}


@dataclass
class LossConfig:
    """A loss and its training."""

    name: str = "scd"  # a loss of `cmpolicy.consistency.losses`; edm trains only a teacher
    options: dict[str, Any] = field(default_factory=dict)  # hyperparameters of the loss
    parameterization: str = "trigflow"  # or karras
    # first updates, which train an EDM teacher to distil, or weights for other losses to start from
    teacher_steps: int = 0
    optimizer: str = "adam"  # or radam
    # the target moves, so Adam's usual 0.999 remembers gradients for too long
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    learning_rate: float = 2e-3  # at its peak
    warmup: int = 100  # updates over which the learning rate rises linearly
    schedule: str = "cosine"  # to 0 in the phase of the teacher and of the student; or constant
    max_grad_norm: float | None = None  # clips gradients; null does not
    ema_decay: float = 0.999  # per update, of the weights that sample, distil and are evaluated
    other_ema_decays: list[float] = field(default_factory=list)  # kept for comparison
    stable_target: bool = False  # trains towards the denoiser of the batch, see `batch_denoiser`
    perceptual: bool = False  # compares images by a classifier's features: `PerceptualDistance`

    def __post_init__(self) -> None:
        if self.name not in ALL_LOSSES:
            ALL_LOSSES[self.name] = find("loss", LOSSES, self.name)
        for key, names in (
            ("parameterization", PARAMETERIZATIONS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
        ):
            if getattr(self, key) not in names:
                raise ValueError(
                    f"unknown loss.{key} {getattr(self, key)!r}, expected one of {', '.join(names)}"
                )
        self._check_ranges()
        try:
            loss = self.make_loss()
        except TypeError as error:
            raise ValueError(f"loss.options do not fit {self.name}: {error}") from None
        if self.perceptual and not isinstance(loss, DiscreteConsistency):
            raise ValueError(f"loss.perceptual: {self.name} does not compare two images")
        if self.perceptual and "metric" in self.options:
            raise ValueError("give either loss.perceptual or loss.options.metric, not both")

    def _check_ranges(self) -> None:
        decays = [self.ema_decay, *self.other_ema_decays]
        if self.teacher_steps < 0 or self.learning_rate <= 0 or self.warmup < 1:
            raise ValueError(f"need teacher_steps ≥ 0, learning_rate > 0 and warmup ≥ 1: {self}")
        if not all(0 <= decay < 1 for decay in decays) or len(set(decays)) < len(decays):
            raise ValueError(
                f"ema_decay and other_ema_decays must differ and lie in [0, 1), got {decays}"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm must be positive or null, got {self.max_grad_norm}")

    @property
    def distils(self) -> bool:
        """Whether the loss needs a teacher throughout."""
        return self.name in DISTILLATIONS

    @property
    def only_teacher(self) -> bool:
        """Whether the loss trains a teacher and no student."""
        return self.name in DIFFUSIONS

    def make_loss(self, perceptual: Metric | None = None) -> Loss:
        """Build the loss; a discrete loss measures with `perceptual` if it is given."""
        loss = ALL_LOSSES[self.name](**self.options)
        if isinstance(loss, DiscreteConsistency) and perceptual is not None:
            return dataclasses.replace(loss, metric=perceptual)
        return loss

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Build the optimiser of the parameters that require gradients."""
        trained = [q for q in parameters if q.requires_grad]
        betas = (self.betas[0], self.betas[1])
        if self.optimizer == "radam":
            return torch.optim.RAdam(trained, self.learning_rate, betas=betas, foreach=True)
        return torch.optim.Adam(trained, self.learning_rate, betas=betas, fused=True)

    def learning_rate_at(self, k: int, steps: int) -> float:
        """Return the learning rate of update k of `steps`."""
        decay = 0.5 * (1 + math.cos(math.pi * k / steps)) if self.schedule == "cosine" else 1.0
        return self.learning_rate * min(1.0, (k + 1) / self.warmup) * decay
