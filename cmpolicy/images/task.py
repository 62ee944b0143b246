"""Train a generative model of images in the loop: data, learner, evaluation, results."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmpolicy.errors import InputError
from cmpolicy.generative.models import EDMTeacher
from cmpolicy.images.classifier import PerceptualDistance, trained_classifier
from cmpolicy.images.config import ImageConfig
from cmpolicy.images.dataset import ImageBatch, ImageDataset, open_images
from cmpolicy.images.figures import draw_sheet
from cmpolicy.images.model import (
    ImageInfo,
    ImageModel,
    Sampler,
    blank_teacher,
    build_learner,
    load_image_model,
)
from cmpolicy.training.distributed import Ranks
from cmpolicy.training.loop import Evaluation
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")
BATCH = 250  # samples computed at once
SHEET_COLUMNS = 20
PROJECTIONS = 100
METRIC_SEED = 1  # of the classifier that a loss uses; evaluation uses another one, with seed 0
DATA = "training images"  # the row of other training images: the distance that noise alone gives


class TrainingImages:
    """Batches of images whose labels are partly hidden, or left out."""

    def __init__(self, images: ImageDataset, conditional: bool, label_dropout: float) -> None:
        self.images, self.conditional, self.label_dropout = images, conditional, label_dropout

    def sample(self, batch_size: int) -> ImageBatch:
        """Draw `batch_size` images; label −1 is hidden."""
        batch = self.images.sample(batch_size)
        if batch.condition is None or not self.conditional:
            return ImageBatch(batch.x, None)
        if not self.label_dropout:
            return batch
        hidden = torch.rand(batch_size, device=batch.x.device) < self.label_dropout
        return ImageBatch(batch.x, torch.where(hidden, -1, batch.condition))


@dataclass(frozen=True)
class ImageScore:
    """Distances between samples and training images.

    Attributes:
        distances: by sampler ("1 step", "teacher, Heun 18"), then by name. `pixel_sliced_w2` is the
            sliced 2-Wasserstein distance of pixels in [−1, 1]: cheap, shows whether training works,
            and does not measure how images look.
        samples: number of samples, and of images they were compared with.
    """

    distances: dict[str, dict[str, float]]
    samples: int

    def __str__(self) -> str:
        parts = (f"{row['pixel_sliced_w2']:.3f} ({name})" for name, row in self.distances.items())
        return f"sliced W2 of pixels {', '.join(parts)}"


class ImageTask:
    """A generative model of images and its training data.

    Attributes:
        dataset: the training images, on the device.
        learner: teacher and student.

    Raises:
        InputError: for missing data, or settings that do not fit each other.
    """

    def __init__(self, config: ImageConfig, device: torch.device, ranks: Ranks) -> None:
        self.config, self.device = config, device
        ranks.parts(config.batch_size, config.accumulate)  # raises before data is read
        data = config.data
        self.images = open_images(
            data.name, data.root, flip=data.flip, size=data.size, device=device
        )
        self.dataset = TrainingImages(self.images, config.conditional, config.label_dropout)
        info = ImageInfo.of(self.images)
        teacher = _load_teacher(config, info, device) if config.teacher is not None else None
        perceptual = _perceptual_distance(self.images) if config.loss.perceptual else None
        self.learner = build_learner(config, info, device, teacher, ranks, perceptual)
        self.model = ImageModel(config, info, self.learner)
        self.scores: dict[int, ImageScore] = {}
        log.info(
            "data: %s, %d images of %s   loss: %s   network: %.2f million parameters",
            *(info.name, info.size, "×".join(map(str, info.shape)), config.loss.name),
            self._parameters() / 1e6,
        )
        if self.learner.teacher_steps and self.learner.student is not None:
            log.info("the first %d updates train an EDM teacher", self.learner.teacher_steps)

    def _parameters(self) -> int:
        return sum(p.numel() for p in self.model.part(None).network.parameters())

    def run_name(self) -> str:
        """Name data and loss, as a path below output_dir."""
        return f"{self.config.data.name}/{self.config.loss.name}"

    def _reference(self, n: int, skip: int = 0) -> tuple[Tensor, Tensor | None]:
        """Return n training images, uint8 on the CPU, and their labels; always the same ones."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))
        chosen = order.roll(-skip)[:n].to(self.device)
        labels = self.images.labels
        return self.images.images[chosen].cpu(), None if labels is None else labels[chosen].cpu()

    def _distances(self, samplers: dict[str, Sampler], n: int, seed: int) -> ImageScore:
        """Compare n samples of each sampler with n training images that have the same labels."""
        n = min(n, len(self.images) // 2)
        images, labels = self._reference(n)
        labels = labels if self.config.conditional else None
        rows = {}
        for name, sampler in samplers.items():
            batches = self.model.sample_batches(sampler, range(seed, seed + n), labels, BATCH)
            rows[name] = pixel_distance(torch.cat(list(batches)), images)
        rows[DATA] = pixel_distance(self._reference(n, skip=n)[0], images)
        return ImageScore(rows, n)

    def evaluate(self, step: int) -> Evaluation:
        """Score one-step samples of the student, or the teacher's if there is no student.

        An untrained student counts too, so that the best checkpoint is never one of the teacher.
        """
        has_student = self.learner.student is not None
        sampler = self.model.few_steps(1) if has_student else self.model.many_steps()
        score = self._distances({"model": sampler}, self.config.eval.samples, self._seed(0))
        row = score.distances["model"]
        return Evaluation(step, -row["pixel_sliced_w2"], {f"eval/{k}": v for k, v in row.items()})

    def _seed(self, purpose: int) -> int:
        """Return the seed of the first sample; seeds of purposes 0 and 1 do not overlap."""
        return 10_000_000 * (self.config.seed % 100 + 1) + 5_000_000 * purpose

    def final_score(self) -> ImageScore:
        """Score all samplers, with noise that did not choose the best checkpoint."""
        step = self.learner.step
        if step not in self.scores:
            n = self.config.eval.final_samples
            self.scores[step] = self._distances(self.model.samplers(), n, self._seed(1))
        return self.scores[step]

    def description(self) -> dict[str, Any]:
        """Describe data and method for results.json."""
        return {
            "task": self.config.data.name,
            "loss": asdict(self.config.loss),
            "network": {**asdict(self.config.network), "parameters": self._parameters()},
            "teacher": self.config.teacher,
            "seed": self.config.seed,
            "batch_size": self.config.batch_size,
            "processes": self.learner.ranks.size,
            "dataset": asdict(self.model.dataset),
        }

    def log_caveats(self) -> None:
        """Log how to sample."""
        log.info("for more samples: python -m cmpolicy.sample run=RUN")

    def save_model(self, run: RunDirectory, step: int) -> None:
        """Write nothing: `load_image_model` opens the checkpoint."""

    def draw(self, run: RunDirectory, evaluations: list[Evaluation]) -> Path:
        """Write samples.png: one row per sampler, from the same noise, all classes in turn."""
        path, seeds = run.path / "samples.png", range(SHEET_COLUMNS)
        labels = self.model.labels(seeds)
        rows = {DATA: self._reference(SHEET_COLUMNS)[0]}
        for name, sampler in reversed(self.model.samplers().items()):
            rows[name] = self.model.sample(sampler, seeds, labels)
        title = f"{self.config.loss.name} on {self.config.data.name}, step {self.learner.step}"
        draw_sheet(path, rows, columns=SHEET_COLUMNS, title=title)
        return path


def pixel_distance(samples: Tensor, images: Tensor) -> dict[str, float]:
    """Compute the sliced 2-Wasserstein distance of two sets of N images, uint8 (N, C, H, W).

    It is the root of the mean squared distance of sorted projections on random directions.
    """
    a, b = (x.flatten(1).double() / 127.5 - 1 for x in (samples, images))
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(a.shape[1], PROJECTIONS, generator=generator, dtype=a.dtype)
    directions = directions / directions.norm(dim=0)
    gap = (a @ directions).sort(0).values - (b @ directions).sort(0).values
    return {"pixel_sliced_w2": float(gap.square().mean().sqrt())}


def _perceptual_distance(images: ImageDataset) -> PerceptualDistance:
    otherwise = "set loss.perceptual=false"
    classifier, _ = trained_classifier(images, seed=METRIC_SEED, otherwise=otherwise)
    return PerceptualDistance(classifier.maps, float(images.mean), images.std)


def _load_teacher(config: ImageConfig, info: ImageInfo, device: torch.device) -> EDMTeacher:
    """Load the trained teacher of another image run.

    Raises:
        InputError: if that run has none, or one that does not fit.
    """
    assert config.teacher is not None
    theirs = load_image_model(config.teacher, device=device, precision=config.precision)
    for key in ("conditional", "sigma_min", "sigma_max", "network", "loss.parameterization"):
        a, b = _setting(theirs.config, key), _setting(config, key)
        if a != b:
            raise InputError(
                f"the teacher of {config.teacher} has {key}={a}, this run {b}; use the teacher's"
            )
    if (theirs.dataset.shape, theirs.dataset.classes) != (info.shape, info.classes):
        raise InputError(
            f"the teacher of {config.teacher} was trained on images of {theirs.dataset.shape} in "
            f"{theirs.dataset.classes} classes, the data has {info.shape} in {info.classes}"
        )
    trained = theirs.learner.teacher
    if trained is None or theirs.step < theirs.learner.teacher_steps:
        raise InputError(f"{config.teacher} has no teacher, or has not finished training it")
    teacher = blank_teacher(config, info, device)
    for network in (teacher.network, teacher.average_network):
        network.load_state_dict(trained.average_network.state_dict())
    return teacher


def _setting(config: Any, key: str) -> Any:
    """Return the value at a dotted key; a network's dropout is left out, as it may differ."""
    for name in key.split("."):
        config = getattr(config, name)
    return {**asdict(config), "dropout": None} if key == "network" else config
