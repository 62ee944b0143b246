"""Load a trained image model from its run, ready to sample and to edit."""

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

STEPS = (1, 2, 5)  # network calls of a student that results report
TEACHER_STEPS = 18  # of Heun's method, 35 network calls: Karras et al. 2022, for CIFAR-10


@dataclass(frozen=True)
class ImageInfo:
    """Facts about the training images that a model needs."""

    name: str  # `name` and `split` of `open_images`
    split: str
    size: int  # number of images
    shape: tuple[int, int, int]  # (C, H, W)
    classes: int  # 0 without labels
    class_names: list[str]
    mean: float  # of all pixels, scaled to [−1, 1]
    std: float

    @classmethod
    def of(cls, images: ImageDataset) -> ImageInfo:
        """Describe a dataset."""
        of_labels = (images.classes, images.class_names)
        sizes = (images.name, images.split, len(images), images.shape)
        return cls(*sizes, *of_labels, float(images.mean), images.std)


@dataclass(frozen=True)
class Sampler:
    """Settings that turn noise into an image."""

    model: str  # student or teacher
    levels: Sequence[float]  # decreasing; those of a student end above 0, one network call each
    solver: str = "heun"  # of a teacher
    churn: dict[str, float] = field(default_factory=dict)  # of a teacher, arguments of `solve`
    ema_decay: float | None = None  # of the averaged weights; None for those of training


@dataclass(frozen=True)
class ImageModel:
    """A teacher, a student, or both, with facts about their training images."""

    config: ImageConfig
    dataset: ImageInfo
    learner: GenerativeLearner  # holds the networks

    @property
    def step(self) -> int:
        """Number of updates so far."""
        return self.learner.step

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.learner.mean.device

    @property
    def conditional(self) -> bool:
        """Whether the networks are trained on classes."""
        return self.config.conditional and self.dataset.classes > 0

    @property
    def parameterization(self) -> Parameterization:
        """Parameterization of the student, or of the teacher if there is no student."""
        return self.part(None).parameterization

    def part(self, name: str | None) -> LevelModel:
        """Return the ``student`` or the ``teacher``; None returns the student if there is one.

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
        """Bind f(x_σ, σ), or a teacher's D, to labels (B,) int64; None for no labels."""
        model = self.part(part)
        return model.bind(labels, model.averaged(ema_decay))

    def encode(self, images: Tensor) -> Tensor:
        """Convert images (N, C, H, W) uint8 to the models' x₀, float32 on the device."""
        return self.learner.encode(from_uint8(images.to(self.device)))

    def decode(self, x0: Tensor) -> Tensor:
        """Convert the models' x₀ to images (N, C, H, W) uint8 on the CPU."""
        return to_uint8(self.learner.decode(x0)).cpu()

    def labels(self, seeds: Sequence[int], label: int | None = None) -> Tensor | None:
        """Return one class for all, or all classes in turn, (N,) int64; None without classes.

        Raises:
            InputError: if there is no such class.
        """
        classes = self.dataset.classes if self.conditional else 0
        if label is not None and not 0 <= label < classes:
            expected = f"0 to {classes - 1}" if classes else "none: the model has no classes"
            raise InputError(f"label is {label}, expected {expected}")
        if not classes:
            return None
        return torch.tensor([seed % classes if label is None else label for seed in seeds])

    def few_steps(self, steps: int) -> Sampler:
        """Build the student's sampler with this number of network calls."""
        return Sampler("student", few_step_levels(steps, self.part("student").parameterization))

    def many_steps(self, steps: int = TEACHER_STEPS) -> Sampler:
        """Build the teacher's sampler with Heun's method."""
        teacher = self.part("teacher")
        assert isinstance(teacher, EDMTeacher)
        return Sampler("teacher", teacher.levels(steps))

    def samplers(self, steps: int | None = None) -> dict[str, Sampler]:
        """Name the samplers that results report, of what is trained so far.

        Args:
            steps: of the student, or of the teacher if there is no student; None for 1, 2 and 5 of
                the student, and the teacher's.
        """
        found: dict[str, Sampler] = {}
        if self.learner.student is not None and self.step >= self.learner.teacher_steps:
            for k in STEPS if steps is None else (steps,):
                found[f"{k} step{'s' if k > 1 else ''}"] = self.few_steps(k)
        if self.learner.teacher is not None and (steps is None or not found):
            k = steps or TEACHER_STEPS
            found[f"teacher, Heun {k}"] = self.many_steps(k)
        return found

    def sample(self, sampler: Sampler, seeds: Sequence[int], labels: Tensor | None) -> Tensor:
        """Sample images, each of which depends only on its seed and label, up to rounding.

        Args:
            seeds: one per image.
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
        on_device = None if labels is None else labels.to(self.device)
        f = self.function(on_device, sampler.model, sampler.ema_decay)
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
        """Sample as `sample` does, `batch_size` images at a time."""
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
    """Build the untrained learner of a configuration; its U-Net computes in `config.precision`.

    Raises:
        InputError: if the network does not fit the images, or the loss needs a teacher.
    """
    classes = info.classes if config.conditional else 0
    precision = resolve_precision(config.precision, device, config.AUTO_PRECISION)
    try:
        network = UNet(info.shape, classes, config.network, autocast=precision == "bf16")
    except ValueError as error:
        raise InputError(str(error)) from None
    return GenerativeLearner(
        network, config.loss, config.steps, torch.full((1, 1, 1), info.mean), info.std,
        config.sigma_min, config.sigma_max, teacher, perceptual=perceptual,
        accumulate=config.accumulate, ranks=ranks,
    ).to(device)  # fmt: skip


def blank_teacher(config: ImageConfig, info: ImageInfo, device: torch.device) -> EDMTeacher:
    """Build an untrained teacher whose weights another run will give."""
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
    """Load the model of an image run, without its images.

    Args:
        run: the run directory.
        checkpoint: ``last`` or ``best``.
        precision: by default the run's.

    Raises:
        InputError: if it is not an image run, is damaged, or has no such checkpoint.
    """
    directory, device = RunDirectory.existing(run), torch.device(device)
    config = load_config(directory, ImageConfig)
    if config is None:
        raise InputError(f"{run} is not an image run; give one trained with --config-name image")
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
    return ImageModel(config, info, learner)
