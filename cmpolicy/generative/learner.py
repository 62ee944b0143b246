"""Train a teacher, then a student, in one run of the loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cmpolicy.consistency.diffusion import batch_denoiser
from cmpolicy.consistency.distribution_matching import DistributionMatching
from cmpolicy.consistency.loss_metrics import Metric
from cmpolicy.consistency.parameterization import PARAMETERIZATIONS, LevelFunction
from cmpolicy.consistency.randomness import Draws, draw, normal
from cmpolicy.errors import InputError, one_line
from cmpolicy.generative.loss_config import LossConfig
from cmpolicy.generative.models import (
    ConsistencyStudent,
    EDMTeacher,
    FakeScore,
    LevelModel,
    teacher_parameterization,
)
from cmpolicy.networks.shared_dropout import SharedDropout, share_masks
from cmpolicy.training.distributed import Ranks

LossFunction = Callable[[Tensor, Tensor | None, Draws], Tensor]  # (x₀, condition, draws) → (B,)
SIGMA_DATA = 0.5  # the data is scaled to it, because EDM's default noise levels assume it


class GenerativeBatch(Protocol):
    """A training batch of toys or images."""

    @property
    def x(self) -> Tensor: ...  # (B, …)

    @property
    def condition(self) -> Tensor | None: ...  # (B, …)

    @property
    def references(self) -> GenerativeBatch | None: ...  # extra samples for the stable target


class GenerativeLearner(nn.Module):
    """Train an EDM teacher during the first updates and a consistency student during the rest.

    Args:
        network: F(x, c_noise, condition), untrained; teacher and student are copies of it.
        config: the loss and its training.
        total_steps: updates of teacher and student together.
        mean, std: of the data. Models see the data shifted by the mean and scaled to σ_d = 0.5.
        sigma_min, sigma_max: the range of noise levels at that scale.
        teacher: an already trained teacher; no update trains another one.
        perceptual: the metric for `config.perceptual`; sampling does not need it.
        accumulate: number of pieces a batch is split into; their gradients add up.
        ranks: the processes that share a batch.

    Attributes:
        teacher: None for a loss without a teacher.
        student: None for a loss that trains only a teacher.
        fake: the score of the student's samples, for DMD2.
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
        decays = (config.ema_decay, config.other_ema_decays)
        self.config, self.accumulate, self.ranks = config, accumulate, ranks
        self.teacher_steps, self.student_steps = _phase_lengths(config, total_steps, teacher)
        self.teacher = teacher
        self.student: ConsistencyStudent | None = None
        self.fake: FakeScore | None = None
        if self.teacher_steps:
            denoising = loss if config.only_teacher else None
            copied = copy.deepcopy(network)
            self.teacher = EDMTeacher(copied, teacher_parameterization(p), *decays, denoising)
        if self.student_steps:
            self.student = ConsistencyStudent(network, p, *decays, loss)
            if isinstance(loss, DistributionMatching):
                self.fake = FakeScore(network, teacher_parameterization(p))
            if teacher is not None:
                self._start_from(teacher)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", torch.tensor(SIGMA_DATA / std))
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        if self.teacher is not None and self.teacher_steps:
            self.optimizers["teacher"] = config.make_optimizer(self.teacher.parameters())
        if self.student is not None:
            self.optimizers["student"] = config.make_optimizer(self.student.parameters())
        if self.fake is not None:
            self.optimizers["fake"] = config.make_optimizer(self.fake.parameters())
        self.has_dropout = any(isinstance(m, SharedDropout) and m.p > 0 for m in self.modules())
        self.step = 0

    def encode(self, x: Tensor) -> Tensor:
        """Scale data to the models' x₀, (B, …)."""
        return (x - self.mean) * self.scale

    def decode(self, x0: Tensor) -> Tensor:
        """Scale the models' x₀ back to data, (B, …)."""
        return x0 / self.scale + self.mean

    def update(self, batch: GenerativeBatch) -> dict[str, Tensor]:
        """Update the teacher during its steps, the student afterwards."""
        if self.teacher is not None and self.step < self.teacher_steps:
            loss = self._update_teacher(self.teacher, batch)
            if self.step + 1 == self.teacher_steps:
                self._start_from(self.teacher)
        else:
            assert self.student is not None, "all steps are done"
            update = self._update_student if self.fake is None else self._match_distribution
            loss = update(self.student, batch)
        self.step += 1
        return {"train/loss": loss}

    def _start_from(self, teacher: EDMTeacher) -> None:
        for model in (self.student, self.fake):
            if model is not None:
                model.start_from(teacher)

    def limits(self) -> dict[str, tuple[float, str]]:
        """Return no limits: any finite loss is allowed."""
        return {}

    def _update_teacher(self, teacher: EDMTeacher, batch: GenerativeBatch) -> Tensor:
        def loss_of(x0: Tensor, condition: Tensor | None, draws: Draws) -> Tensor:
            return teacher.loss(x0, condition, self._stable_target(batch, x0, condition), draws)

        loss = self._add_gradients(teacher, loss_of, self.encode(batch.x), batch.condition)
        self._optimize("teacher", teacher, loss, self.step, self.teacher_steps)
        return loss

    def _update_student(self, student: ConsistencyStudent, batch: GenerativeBatch) -> Tensor:
        k = self.step - self.teacher_steps
        progress = k / self.student_steps

        def loss_of(x0: Tensor, condition: Tensor | None, draws: Draws) -> Tensor:
            teacher = self._stable_target(batch, x0, condition)
            if self.config.distils and self.teacher is not None:
                teacher = self.teacher.bind(condition)
            return student.loss(x0, condition, progress, teacher, draws)

        loss = self._add_gradients(student, loss_of, self.encode(batch.x), batch.condition)
        self._optimize("student", student, loss, k, self.student_steps)
        student.update_target(progress)
        return loss

    def _match_distribution(self, student: ConsistencyStudent, batch: GenerativeBatch) -> Tensor:
        """Update D_fake and, once in `fake_updates` times, the student. Of the data only labels
        are used. Returns the loss of the student, or of D_fake where only that was updated.
        """
        matching, fake, teacher = student.consistency_loss, self.fake, self.teacher
        assert isinstance(matching, DistributionMatching)
        assert fake is not None
        assert teacher is not None
        k = self.step - self.teacher_steps

        def fake_loss(z: Tensor, condition: Tensor | None, draws: Draws) -> Tensor:
            f, p = student.bind(condition, student.network), student.parameterization
            return matching.fake_loss(f, fake.bind(condition), z, p, draws)

        def loss_of(z: Tensor, condition: Tensor | None, draws: Draws) -> Tensor:
            f, p = student.bind(condition, student.network), student.parameterization
            score, progress = fake.bind(condition), z.new_tensor(k / self.student_steps)
            return matching(f, score, z, p, progress, draws, teacher=teacher.bind(condition))

        def noise() -> Tensor:
            return normal(batch.x.shape, batch.x)

        loss = self._add_gradients(fake, fake_loss, noise(), batch.condition)
        self._optimize("fake", fake, loss, k, self.student_steps)
        turn, last = divmod(k, matching.fake_updates)
        if last == matching.fake_updates - 1:
            turns = max(1, self.student_steps // matching.fake_updates)
            loss = self._add_gradients(student, loss_of, noise(), batch.condition)
            self._optimize("student", student, loss, turn, turns)
        return loss

    def _stable_target(
        self, batch: GenerativeBatch, x0: Tensor, condition: Tensor | None
    ) -> LevelFunction | None:
        """Build the denoiser of the batch and its references, if the configuration asks for it."""
        if not self.config.stable_target:
            return None
        more = batch.references
        references = None if more is None else (self.encode(more.x), more.condition)
        return batch_denoiser(x0, condition, references)

    def _add_gradients(
        self,
        model: LevelModel | FakeScore,
        loss_of: LossFunction,
        x0: Tensor,
        condition: Tensor | None,
    ) -> Tensor:
        """Set the gradients of the mean loss over this process's share; return that mean, ()."""
        draws, masks = draw(x0), self.draw_masks(x0)
        parts = self.ranks.parts(len(x0), self.accumulate)
        model.zero_grad()
        total = x0.new_zeros(())
        for part in parts:
            if masks is not None:
                seed, shifts = masks
                for network in model.trained_networks:
                    share_masks(network, seed, shifts[part])
            c = None if condition is None else condition[part]
            loss = loss_of(x0[part], c, draws.part(part)).mean() / len(parts)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def draw_masks(self, x0: Tensor) -> tuple[int, Tensor] | None:
        """Draw the seed and the shifts (B,) of one update's dropout masks; None without dropout."""
        if not self.has_dropout:
            return None
        return int(torch.randint(2**62, ())), torch.rand(len(x0), device=x0.device)

    def _optimize(
        self, name: str, model: LevelModel | FakeScore, loss: Tensor, k: int, steps: int
    ) -> None:
        """Average gradients and loss over the processes, take optimiser step k, update the EMAs."""
        optimizer = self.optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(k, steps)
        self.ranks.average([*(p.grad for p in model.parameters() if p.grad is not None), loss])
        if self.config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.config.max_grad_norm)
        optimizer.step()
        model.update_average(k)

    def training_state(self) -> dict[str, Any]:
        """Return everything that a resumed training needs."""
        optimizers = {name: o.state_dict() for name, o in self.optimizers.items()}
        return {"modules": dict(self.state_dict()), "optimizers": optimizers, "step": self.step}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore a `training_state`.

        Raises:
            InputError: if it belongs to another model.
        """
        try:
            self.load_state_dict(state["modules"])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            self.step = state["step"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                f"the checkpoint does not fit {self.config.name}: {one_line(error)}"
            ) from error


def _phase_lengths(
    config: LossConfig, total_steps: int, teacher: EDMTeacher | None
) -> tuple[int, int]:
    """Split the updates between teacher and student.

    Raises:
        InputError: if the student has no updates, or a distillation no teacher.
    """
    if config.only_teacher:
        return total_steps, 0
    teacher_steps = 0 if teacher is not None else config.teacher_steps
    student_steps = total_steps - teacher_steps
    no_teacher = teacher is None and not teacher_steps
    if student_steps < 1 or (config.distils and no_teacher):
        raise InputError(
            f"steps={total_steps} with loss.teacher_steps={teacher_steps}: {config.name} "
            "needs steps of its own, and a distillation needs a teacher"
        )
    return teacher_steps, student_steps
