"""A loss and the training that suits it, as a configuration."""

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

OPTIMIZERS = ("adam", "radam")
SCHEDULES = ("cosine", "constant")
ALL_LOSSES: dict[str, Callable[..., Loss]] = {**LOSSES, **DISTILLATIONS, **DIFFUSIONS}


@dataclass
class LossConfig:
    """A loss and the training that suits it.

    Attributes:
        name: in LOSSES or DISTILLATIONS of `cmpolicy.consistency.losses`; ``edm`` trains a teacher
            and nothing after it.
        options: hyperparameters of that loss.
        parameterization: ``karras`` or ``trigflow``.
        teacher_steps: the first updates of the run, which train an EDM denoiser. A distillation
            has it as its teacher; any other loss begins with its weights. 0 for none.
        optimizer: ``adam`` or ``radam``.
        betas: of the optimiser. The target moves: Adam's usual 0.999 remembers gradients for too
            long.
        learning_rate: at its peak.
        warmup: updates over which it rises.
        schedule: what it does then, once for the teacher and once for the student: falls to 0
            along a ``cosine``, or stays ``constant``.
        max_grad_norm: to which longer gradients are cut; null for any length.
        ema_decay: of the averaged networks that sample, distil and are evaluated, an update.
        other_ema_decays: of further averages, kept to be compared.
        stable_target: denoising and consistency training against the denoiser of the batch in
            place of each sample, see `batch_denoiser`.
        adaptive_weight: weigh noise levels by a learned function, which in few dimensions harms.
        perceptual: compare images by the features of a classifier, in place of the loss's own
            metric; see `PerceptualDistance`.
    """

    name: str = "scd"
    options: dict[str, Any] = field(default_factory=dict)
    parameterization: str = "trigflow"
    teacher_steps: int = 0
    optimizer: str = "adam"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    learning_rate: float = 2e-3
    warmup: int = 100
    schedule: str = "cosine"
    max_grad_norm: float | None = None
    ema_decay: float = 0.999
    other_ema_decays: list[float] = field(default_factory=list)
    stable_target: bool = False
    adaptive_weight: bool = False
    perceptual: bool = False

    def __post_init__(self) -> None:
        for key, names in (
            ("name", ALL_LOSSES),
            ("parameterization", PARAMETERIZATIONS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
        ):
            if getattr(self, key) not in names:
                raise ValueError(
                    f"unknown loss.{key} {getattr(self, key)!r}, expected one of {', '.join(names)}"
                )
        self.check_ranges()
        try:
            loss = self.make_loss()
        except TypeError as error:
            raise ValueError(f"loss.options do not fit {self.name}: {error}") from None
        if self.perceptual and not isinstance(loss, DiscreteConsistency):
            raise ValueError(f"loss.perceptual: {self.name} compares no two pictures")
        if self.perceptual and "metric" in self.options:
            raise ValueError("loss.perceptual and loss.options.metric exclude each other")

    def make_loss(self, perceptual: Metric | None = None) -> Loss:
        """What `name` and `options` describe, with the metric that `perceptual` asks for."""
        loss = ALL_LOSSES[self.name](**self.options)
        if isinstance(loss, DiscreteConsistency) and perceptual is not None:
            return dataclasses.replace(loss, metric=perceptual)
        return loss

    def check_ranges(self) -> None:
        """Raise ValueError for a number out of its range."""
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
        """Whether the loss needs a teacher to its end."""
        return self.name in DISTILLATIONS

    @property
    def only_teacher(self) -> bool:
        """Whether there is no student."""
        return self.name in DIFFUSIONS

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of a network."""
        trained = [q for q in parameters if q.requires_grad]
        betas = (self.betas[0], self.betas[1])
        if self.optimizer == "radam":
            return torch.optim.RAdam(trained, self.learning_rate, betas=betas, foreach=True)
        return torch.optim.Adam(trained, self.learning_rate, betas=betas, fused=True)

    def learning_rate_at(self, k: int, steps: int) -> float:
        """Of update k of `steps`."""
        decay = 0.5 * (1 + math.cos(math.pi * k / steps)) if self.schedule == "cosine" else 1.0
        return self.learning_rate * min(1.0, (k + 1) / self.warmup) * decay
