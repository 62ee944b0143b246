"""Trains a teacher, then a student, in one run of the loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cmpolicy.consistency.diffusion import batch_denoiser
from cmpolicy.consistency.loss_metrics import Metric
from cmpolicy.consistency.parameterization import PARAMETERIZATIONS, LevelFunction
from cmpolicy.consistency.randomness import Draws, draw
from cmpolicy.errors import InputError
from cmpolicy.generative.loss_config import LossConfig
from cmpolicy.generative.models import (
    ConsistencyStudent,
    EDMTeacher,
    LevelModel,
    teacher_parameterization,
)
from cmpolicy.networks.shared_dropout import SharedDropout, share_masks
from cmpolicy.training.distributed import Ranks

LossOf = Callable[[Tensor, Tensor | None, Draws], Tensor]  # (x₀, condition, draws) → (B,)
SIGMA_DATA = 0.5  # the data is scaled to it: EDM's defaults for levels are made for it


class GenerativeBatch(Protocol):
    """What the learner trains on."""

    @property
    def x(self) -> Tensor: ...  # (B, …)

    @property
    def condition(self) -> Tensor | None: ...  # (B, …)

    @property
    def references(self) -> GenerativeBatch | None: ...  # samples for the stable target alone


class GenerativeLearner(nn.Module):
    """An EDM teacher for the first updates, a consistency student for the rest.

    Args:
        network: F(x, c_noise, condition), untrained; teacher and student are copies of it.
        config: the loss and its training.
        total_steps: updates of teacher and student together.
        mean, std: of the data, which the models see shifted by the mean and scaled to σ_d = 0.5.
        sigma_min, sigma_max: the ends of the noise levels at that scale.
        teacher: a trained one, instead of the first updates.
        perceptual: the metric of a loss that asks for one, which training needs and sampling not.
        accumulate: pieces that a batch is taken in, whose gradients add up to that of the batch.
        ranks: the processes among which a batch is divided first.

    Attributes:
        teacher: None for a loss that needs none.
        student: None for a loss that trains a teacher alone.
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
        *,
        perceptual: Metric | None = None,
        accumulate: int = 1,
        ranks: Ranks = Ranks(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__()
        p = PARAMETERIZATIONS[config.parameterization](SIGMA_DATA, sigma_min, sigma_max)
        loss = config.make_loss(perceptual)
        averages = (config.ema_decay, config.other_ema_decays)
        self.config, self.accumulate, self.ranks = config, accumulate, ranks
        self.teacher_steps, self.student_steps = phase_lengths(
            config, total_steps, teacher is not None
        )
        self.teacher = teacher
        if self.teacher_steps:
            self.teacher = EDMTeacher(
                copy.deepcopy(network),
                teacher_parameterization(p),
                *averages,
                denoising=loss if config.only_teacher else None,
            )
        self.student: ConsistencyStudent | None = None
        if self.student_steps:
            self.student = ConsistencyStudent(
                network, p, *averages, loss, adaptive_weight=config.adaptive_weight
            )
            if teacher is not None:
                self.student.start_from(teacher)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", torch.tensor(SIGMA_DATA / std))
        self.optimizers = {
            name: config.make_optimizer(model.parameters())
            for name, model, steps in (
                ("teacher", self.teacher, self.teacher_steps),
                ("student", self.student, self.student_steps),
            )
            if model is not None and steps
        }
        self.has_dropout = any(isinstance(m, SharedDropout) and m.p > 0 for m in self.modules())
        self.step = 0

    def encode(self, x: Tensor) -> Tensor:
        """Data → x₀ of the models, (B, …)."""
        return (x - self.mean) * self.scale

    def decode(self, x0: Tensor) -> Tensor:
        """x₀ of the models → data, (B, …)."""
        return x0 / self.scale + self.mean

    def update(self, batch: GenerativeBatch) -> dict[str, Tensor]:
        """One update of the teacher while its steps last, then of the student."""
        if self.teacher is not None and self.step < self.teacher_steps:
            loss = self.update_teacher(self.teacher, batch)
            if self.step + 1 == self.teacher_steps and self.student is not None:
                self.student.start_from(self.teacher)
        else:
            assert self.student is not None, "the steps are over"
            loss = self.update_student(self.student, batch)
        self.step += 1
        return {"train/loss": loss}

    def limits(self) -> dict[str, tuple[float, str]]:
        """None: a loss that is a number is small enough."""
        return {}

    def update_teacher(self, teacher: EDMTeacher, batch: GenerativeBatch) -> Tensor:
        """Denoising."""

        def loss_of(x0: Tensor, condition: Tensor | None, draws: Draws) -> Tensor:
            return teacher.loss(x0, condition, self.stable_target(batch, x0, condition), draws)

        loss = self.add_gradients(teacher, loss_of, batch)
        self.minimize("teacher", teacher, loss, self.step, self.teacher_steps)
        return loss

    def update_student(self, student: ConsistencyStudent, batch: GenerativeBatch) -> Tensor:
        """Consistency training, or distillation."""
        k = self.step - self.teacher_steps
        progress = k / self.student_steps

        def loss_of(x0: Tensor, condition: Tensor | None, draws: Draws) -> Tensor:
            teacher = self.stable_target(batch, x0, condition)
            if self.config.distils and self.teacher is not None:
                teacher = self.teacher.given(condition)
            return student.loss(x0, condition, progress, teacher, draws)

        loss = self.add_gradients(student, loss_of, batch)
        self.minimize("student", student, loss, k, self.student_steps)
        student.update_target(progress)
        return loss

    def stable_target(
        self, batch: GenerativeBatch, x0: Tensor, condition: Tensor | None
    ) -> LevelFunction | None:
        """The denoiser of the batch and its references, where that is asked for."""
        if not self.config.stable_target:
            return None
        more = batch.references
        references = None if more is None else (self.encode(more.x), more.condition)
        return batch_denoiser(x0, condition, references)

    def add_gradients(self, model: LevelModel, loss_of: LossOf, batch: GenerativeBatch) -> Tensor:
        """Set the gradients of the mean loss of this process's part of the batch; return it, ()."""
        x0, condition = self.encode(batch.x), batch.condition
        draws, masks = draw(x0), self.draw_masks(x0)
        parts = self.ranks.parts(len(x0), self.accumulate)
        model.zero_grad()
        total = x0.new_zeros(())
        for part in parts:
            if masks is not None:
                seed, shifts = masks
                for network in model.trained_networks:
                    share_masks(network, seed, shifts[part])
            given = None if condition is None else condition[part]
            loss = loss_of(x0[part], given, draws.part(part)).mean() / len(parts)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def draw_masks(self, x0: Tensor) -> tuple[int, Tensor] | None:
        """What one update's dropout masks follow from; None for networks without dropout."""
        if not self.has_dropout:
            return None
        return int(torch.randint(2**62, ())), torch.rand(len(x0), device=x0.device)

    def minimize(self, name: str, model: LevelModel, loss: Tensor, k: int, steps: int) -> None:
        """Update k of K = `steps` from the gradients of all processes, then the averages."""
        optimizer = self.optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(k, steps)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self.ranks.average([*gradients, loss])
        if self.config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.config.max_grad_norm)
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


def phase_lengths(config: LossConfig, total_steps: int, has_teacher: bool) -> tuple[int, int]:
    """Updates of the teacher and of the student.

    Raises:
        InputError: if one that is needed has none.
    """
    if config.only_teacher:
        return total_steps, 0
    teacher_steps = 0 if has_teacher else config.teacher_steps
    student_steps = total_steps - teacher_steps
    if student_steps < 1 or (config.distils and not (has_teacher or teacher_steps)):
        raise InputError(
            f"steps={total_steps} with loss.teacher_steps={teacher_steps}: {config.name} "
            "needs steps of its own, and a distillation a teacher"
        )
    return teacher_steps, student_steps
