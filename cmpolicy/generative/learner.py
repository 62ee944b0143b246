"""Trains a teacher, then a student, in one run of the loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cmpolicy.consistency.diffusion import batch_denoiser
from cmpolicy.consistency.losses import DISTILLATIONS, LOSSES
from cmpolicy.consistency.parameterization import PARAMETERIZATIONS, LevelFunction
from cmpolicy.errors import InputError
from cmpolicy.generative.models import (
    ConsistencyStudent,
    EDMTeacher,
    LevelModel,
    teacher_parameterization,
)

WARMUP = 100  # updates over which the learning rate rises
BETAS = (0.9, 0.99)  # the target moves: Adam's usual 0.999 remembers gradients for too long
SIGMA_DATA = 0.5  # the data is scaled to it: EDM's defaults for levels are made for it


class Batch(Protocol):
    """What the learner trains on."""

    @property
    def x(self) -> Tensor: ...  # (B, …)

    @property
    def condition(self) -> Tensor | None: ...  # (B, …)


@dataclass
class LossConfig:
    """A loss and the training that suits it.

    Attributes:
        name: in LOSSES or DISTILLATIONS of `cmpolicy.consistency.losses`.
        options: hyperparameters of that loss.
        parameterization: ``karras`` or ``trigflow``.
        teacher_steps: the first updates of the run, which train an EDM denoiser. A distillation
            has it as its teacher; any other loss begins with its weights. 0 for none.
        learning_rate: at its peak; it falls to 0 along a cosine, once for each of the two.
        ema_decay: of the averaged networks, an update.
        stable_target: denoising and consistency training against the denoiser of the batch in
            place of each sample, see `batch_denoiser`.
        adaptive_weight: weigh noise levels by a learned function, which in few dimensions harms.
    """

    name: str = "scd"
    options: dict[str, Any] = field(default_factory=dict)
    parameterization: str = "trigflow"
    teacher_steps: int = 0
    learning_rate: float = 2e-3
    ema_decay: float = 0.999
    stable_target: bool = False
    adaptive_weight: bool = False

    def __post_init__(self) -> None:
        losses = {**LOSSES, **DISTILLATIONS}
        for key, names in (("name", losses), ("parameterization", PARAMETERIZATIONS)):
            if getattr(self, key) not in names:
                raise ValueError(
                    f"unknown loss.{key} {getattr(self, key)!r}, expected one of {', '.join(names)}"
                )
        if self.teacher_steps < 0 or self.learning_rate <= 0 or not 0 <= self.ema_decay < 1:
            raise ValueError(
                f"need teacher_steps ≥ 0, learning_rate > 0, 0 ≤ ema_decay < 1: {self}"
            )
        try:
            losses[self.name](**self.options)
        except TypeError as error:
            raise ValueError(f"loss.options do not fit {self.name}: {error}") from None

    @property
    def distils(self) -> bool:
        """Whether the loss needs a teacher to its end."""
        return self.name in DISTILLATIONS


class GenerativeLearner(nn.Module):
    """An EDM teacher for the first updates, a consistency student for the rest.

    Args:
        network: F(x, c_noise, condition), untrained; teacher and student are copies of it.
        config: the loss and its training.
        total_steps: updates of teacher and student together.
        mean, std: of the data, which the models see shifted by the mean and scaled to σ_d = 0.5.
        sigma_min, sigma_max: the ends of the noise levels at that scale.
        teacher: a trained one, instead of the first updates.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        config: LossConfig,
        total_steps: int,
        mean: Tensor,
        std: float,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        teacher: EDMTeacher | None = None,
    ) -> None:
        super().__init__()
        p = PARAMETERIZATIONS[config.parameterization](SIGMA_DATA, sigma_min, sigma_max)
        loss = {**LOSSES, **DISTILLATIONS}[config.name](**config.options)
        self.config = config
        self.teacher_steps = 0 if teacher is not None else config.teacher_steps
        self.student_steps = total_steps - self.teacher_steps
        if self.student_steps < 1 or (config.distils and not (teacher or self.teacher_steps)):
            raise InputError(
                f"steps={total_steps} with loss.teacher_steps={self.teacher_steps}: {config.name} "
                "needs steps of its own, and a distillation a teacher"
            )
        self.student = ConsistencyStudent(
            network, p, config.ema_decay, loss, config.adaptive_weight
        )
        self.teacher = teacher
        if self.teacher_steps:
            self.teacher = EDMTeacher(
                copy.deepcopy(network), teacher_parameterization(p), config.ema_decay
            )
        elif teacher is not None:
            self.student.start_from(teacher)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", torch.tensor(SIGMA_DATA / std))
        self.optimizers = {
            name: torch.optim.Adam(
                [q for q in model.parameters() if q.requires_grad],
                config.learning_rate,
                betas=BETAS,
                fused=True,
            )
            for name, model in (("teacher", self.teacher), ("student", self.student))
            if isinstance(model, LevelModel)
        }
        self.step = 0

    def encode(self, x: Tensor) -> Tensor:
        """Data → x₀ of the models, (B, …)."""
        return (x - self.mean) * self.scale

    def decode(self, x0: Tensor) -> Tensor:
        """x₀ of the models → data, (B, …)."""
        return x0 / self.scale + self.mean

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One update of the teacher while its steps last, then of the student."""
        x0, condition = self.encode(batch.x), batch.condition
        stable = batch_denoiser(x0, condition) if self.config.stable_target else None
        if self.teacher is not None and self.step < self.teacher_steps:
            loss = self.teacher.loss(x0, condition, stable).mean()
            self.minimize("teacher", self.teacher, loss, self.step, self.teacher_steps)
            if self.step + 1 == self.teacher_steps:
                self.student.start_from(self.teacher)
        else:
            loss = self.update_student(x0, condition, stable)
        self.step += 1
        return {"train/loss": loss.detach()}

    def update_student(
        self, x0: Tensor, condition: Tensor | None, stable: LevelFunction | None
    ) -> Tensor:
        """Consistency training, or distillation."""
        k = self.step - self.teacher_steps
        progress = k / self.student_steps
        teacher = stable
        if self.config.distils and self.teacher is not None:
            teacher = self.teacher.given(condition)
        loss = self.student.loss(x0, condition, progress, teacher).mean()
        self.minimize("student", self.student, loss, k, self.student_steps)
        self.student.update_target(progress)
        return loss

    def minimize(self, name: str, model: LevelModel, loss: Tensor, k: int, steps: int) -> None:
        """Update k of K = `steps`, then the average. The learning rate rises, then falls to 0."""
        optimizer = self.optimizers[name]
        factor = min(1.0, (k + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * k / steps))
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        model.update_average(k)

    def training_state(self) -> dict[str, Any]:
        """Everything that a resumed training needs."""
        optimizers = {name: o.state_dict() for name, o in self.optimizers.items()}
        return {"modules": dict(self.state_dict()), "optimizers": optimizers, "step": self.step}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `training_state` gave.

        Raises:
            InputError: if it is another model's.
        """
        try:
            self.load_state_dict(state["modules"])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            self.step = state["step"]
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"the checkpoint does not fit {self.config.name}: {reason}") from error
