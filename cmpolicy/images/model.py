"""A trained image model: opened from its run, ready to sample and to edit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from cmpolicy.acceleration.precision import resolve_precision
from cmpolicy.cli.resume import load_config
from cmpolicy.consistency.loss_metrics import Metric
from cmpolicy.consistency.parameterization import LevelFunction, Parameterization
from cmpolicy.consistency.randomness import normal_like
from cmpolicy.consistency.sampling import few_step_levels, multistep
from cmpolicy.consistency.solvers import solve
from cmpolicy.errors import InputError
from cmpolicy.generative.learner import GenerativeLearner
from cmpolicy.generative.models import EDMTeacher, LevelModel
from cmpolicy.images.config import ImageConfig
from cmpolicy.images.dataset import ImageDataset, from_uint8, to_uint8
from cmpolicy.images.unet import UNet
from cmpolicy.training.distributed import Ranks
from cmpolicy.training.run_directory import RunDirectory

TEACHER_STEPS = 18  # Heun's, 35 network calls: Karras et al. 2022, for CIFAR-10


@dataclass(frozen=True)
class ImageInfo:
    """What a model must know of the images that it was trained on.

    Attributes:
        name, split: as `open_images` calls them.
        size: how many images.
        shape: (C, H, W).
        classes: how many, 0 without labels.
        class_names: of the labels.
        mean, std: of all pixels, between −1 and 1.
    """

    name: str
    split: str
    size: int
    shape: tuple[int, int, int]
    classes: int
    class_names: list[str]
    mean: float
    std: float

    @classmethod
    def of(cls, images: ImageDataset) -> ImageInfo:
        """Of a dataset at hand."""
        return cls(
            images.name, images.split, len(images), images.shape, images.classes,
            images.class_names, float(images.mean), images.std,
        )  # fmt: skip


@dataclass(frozen=True)
class Sampler:
    """How noise becomes a picture.

    Attributes:
        model: ``student`` or ``teacher``.
        levels: noise levels, decreasing; those of a student end above 0, one network call each.
        solver: of a teacher.
        churn: its S_churn, S_tmin, S_tmax and S_noise, as `solve` names them.
        ema_decay: of the averaged weights; None for the ones that training evaluates.
    """

    model: str
    levels: Sequence[float]
    solver: str = "heun"
    churn: dict[str, float] = field(default_factory=dict)
    ema_decay: float | None = None


@dataclass(frozen=True)
class ImageModel:
    """A teacher, a student, or both, and the images they were trained on.

    Attributes:
        config: of the run.
        dataset: the images.
        learner: holds the networks.
        step: updates behind them.
    """

    config: ImageConfig
    dataset: ImageInfo
    learner: GenerativeLearner
    step: int = 0

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.learner.mean.device

    @property
    def conditional(self) -> bool:
        """Whether the networks know classes."""
        return self.config.conditional and self.dataset.classes > 0

    @property
    def parameterization(self) -> Parameterization:
        """Of the student; of the teacher where there is no student."""
        return self.part(None).parameterization

    def part(self, name: str | None) -> LevelModel:
        """The ``student`` or the ``teacher``; None: the student, where there is one.

        Raises:
            InputError: if the run has no such part.
        """
        parts: dict[str, LevelModel | None]
        parts = {"student": self.learner.student, "teacher": self.learner.teacher}
        there = {key: part for key, part in parts.items() if part is not None}
        if name is not None and name not in there:
            raise InputError(f"the run has no {name}; it has: {', '.join(there)}")
        return there[name] if name is not None else next(iter(there.values()))

    def function(
        self, labels: Tensor | None, part: str | None = None, ema_decay: float | None = None
    ) -> LevelFunction:
        """f(x_σ, σ), or a teacher's D, bound to labels (B,) int64; None for no label."""
        model = self.part(part)
        return model.given(labels, model.averaged(ema_decay))

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) → x₀ of the models, float32 on the device."""
        return self.learner.encode(from_uint8(images.to(self.device)))

    def decode(self, x0: Tensor) -> Tensor:
        """x₀ of the models → uint8 (N, C, H, W) on the CPU."""
        return to_uint8(self.learner.decode(x0)).cpu()

    def labels(self, seeds: Sequence[int], label: int | None = None) -> Tensor | None:
        """One class for all, or all classes in turn, (N,) int64; None for a model without.

        Raises:
            InputError: if there is no such class.
        """
        classes = self.dataset.classes if self.conditional else 0
        if label is not None and not 0 <= label < classes:
            there = f"0 to {classes - 1}" if classes else "none: the model knows no classes"
            raise InputError(f"label is {label}, expected {there}")
        if not classes:
            return None
        return torch.tensor([seed % classes if label is None else label for seed in seeds])

    def few_steps(self, steps: int) -> Sampler:
        """The student with that many network calls."""
        return Sampler("student", few_step_levels(steps, self.part("student").parameterization))

    def many_steps(self, steps: int = TEACHER_STEPS) -> Sampler:
        """The teacher with Heun's method."""
        teacher = self.part("teacher")
        assert isinstance(teacher, EDMTeacher)
        return Sampler("teacher", teacher.levels(steps))

    def sample(self, sampler: Sampler, seeds: Sequence[int], labels: Tensor | None) -> Tensor:
        """Pictures, each of which depends on its own seed and label alone, but for rounding.

        Args:
            seeds: one a picture.
            labels: (N,) int64 class labels, or None.

        Returns:
            (N, C, H, W) uint8 on the CPU.

        Raises:
            InputError: if the run has no such part or average.
            ValueError: if levels do not decrease.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        blank = torch.empty(len(seeds), *self.dataset.shape, device=self.device)
        noise = normal_like(blank, generators)
        given = None if labels is None else labels.to(self.device)
        f = self.function(given, sampler.model, sampler.ema_decay)
        with torch.inference_mode():
            if sampler.model == "teacher":
                x0 = solve(
                    f, noise, sampler.levels, sampler.solver, generator=generators, **sampler.churn
                )
            else:
                boundary = self.part("student").parameterization.boundary
                x0 = multistep(f, noise, sampler.levels, boundary, generators)
            return self.decode(x0)

    def sample_batches(
        self, sampler: Sampler, seeds: Sequence[int], labels: Tensor | None, batch_size: int
    ) -> Iterator[Tensor]:
        """The same, `batch_size` pictures at a time."""
        for begin in range(0, len(seeds), batch_size):
            part = slice(begin, begin + batch_size)
            yield self.sample(sampler, seeds[part], None if labels is None else labels[part])


def build_learner(
    config: ImageConfig,
    info: ImageInfo,
    device: torch.device,
    teacher: EDMTeacher | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008  # frozen
    perceptual: Metric | None = None,
) -> GenerativeLearner:
    """The learner that a configuration describes, untrained.

    Raises:
        InputError: if the network does not fit the images, or the loss has no teacher.
    """
    try:
        network = build_network(config, info, device)
    except ValueError as error:
        raise InputError(str(error)) from None
    return GenerativeLearner(
        network, config.loss, config.steps, torch.full((1, 1, 1), info.mean), info.std,
        config.sigma_min, config.sigma_max, teacher, perceptual=perceptual,
        accumulate=config.accumulate, ranks=ranks,
    ).to(device)  # fmt: skip


def build_network(config: ImageConfig, info: ImageInfo, device: torch.device) -> UNet:
    """The U-Net for these images; it computes in the precision that is asked for."""
    classes = info.classes if config.conditional else 0
    precision = resolve_precision(config.precision, device, config.AUTO_PRECISION)
    return UNet(info.shape, classes, config.network, autocast=precision == "bf16")


def blank_teacher(config: ImageConfig, info: ImageInfo, device: torch.device) -> EDMTeacher:
    """A teacher of another run, before its weights are there."""
    loss = dataclasses.replace(
        config.loss, name="edm", options={}, other_ema_decays=[], perceptual=False
    )
    edm = dataclasses.replace(config, loss=loss, teacher=None, steps=1)
    teacher = build_learner(edm, info, device).teacher
    assert teacher is not None
    return teacher


def load_image_model(
    run: str | Path,
    checkpoint: str = "last",
    device: torch.device | str = "cpu",
    precision: str | None = None,
) -> ImageModel:
    """The model of an image run, without its images.

    Args:
        run: the run's directory.
        checkpoint: ``last`` or ``best``.
        precision: in place of the run's.

    Raises:
        InputError: if it is not a run of images, is damaged, or has no such checkpoint.
    """
    directory, device = RunDirectory.existing(run), torch.device(device)
    config = load_config(directory, ImageConfig)
    if config is None:
        raise InputError(f"{run} is no run of images; give one that --config-name image has made")
    config = dataclasses.replace(config, precision=precision or config.precision)
    try:
        described = dict(directory.read_results()["dataset"])
        info = ImageInfo(**{**described, "shape": tuple(described["shape"])})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{directory.results_path} does not describe images: {error}") from None
    teacher = blank_teacher(config, info, device) if config.teacher is not None else None
    learner = build_learner(config, info, device, teacher)
    state = directory.load_checkpoint(checkpoint, str(device))
    learner.load_training_state(state["learner"])
    return ImageModel(config, info, learner, state["step"])
