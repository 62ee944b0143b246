"""Images for the loop: data, learner, comparison with the data, results, put together."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmpolicy.errors import InputError
from cmpolicy.generative.models import EDMTeacher
from cmpolicy.images.classifier import trained_classifier
from cmpolicy.images.config import ImageConfig
from cmpolicy.images.dataset import ImageBatch, ImageDataset, open_images
from cmpolicy.images.figures import draw_sheet
from cmpolicy.images.model import (
    TEACHER_STEPS,
    ImageInfo,
    ImageModel,
    Sampler,
    blank_teacher,
    build_learner,
    load_image_model,
)
from cmpolicy.images.perceptual_distance import PerceptualDistance
from cmpolicy.training.distributed import Ranks
from cmpolicy.training.loop import Evaluation
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")
STEPS = (1, 2, 5)
BATCH = 250  # samples at once
SHEET_COLUMNS = 20
PROJECTIONS = 100
METRIC_SEED = 1  # of the classifier that a loss may use; the one that measures samples has 0
DATA = "training images"  # the row of other training images, the floor of a distance


class TrainingImages:
    """Batches of images, with the labels that a model is to see."""

    def __init__(self, images: ImageDataset, conditional: bool, label_dropout: float) -> None:
        self.images, self.conditional, self.label_dropout = images, conditional, label_dropout

    def sample(self, batch_size: int) -> ImageBatch:
        """`batch_size` images; −1 stands for a label that is hidden."""
        batch = self.images.sample(batch_size)
        if batch.condition is None or not self.conditional:
            return ImageBatch(batch.x, None)
        if not self.label_dropout:
            return batch
        hidden = torch.rand(batch_size, device=batch.x.device) < self.label_dropout
        return ImageBatch(batch.x, torch.where(hidden, -1, batch.condition))


@dataclass(frozen=True)
class ImageScore:
    """How near samples are to the images.

    Attributes:
        distances: by sampler ("1 step", "teacher, Heun 18"), then by name. `pixel_sliced_w2` is the
            sliced 2-Wasserstein distance of raw pixels between −1 and 1: cheap, good to see that a
            training goes well, and no measure of how images look.
        samples: how many were compared with as many images.
    """

    distances: dict[str, dict[str, float]]
    samples: int

    def __str__(self) -> str:
        parts = (f"{row['pixel_sliced_w2']:.3f} ({name})" for name, row in self.distances.items())
        return f"sliced W2 of pixels {', '.join(parts)}"


class ImageTask:
    """One generative model of images.

    Attributes:
        dataset: the training images, on the device.
        learner: teacher and student.

    Raises:
        InputError: for anything that does not exist or fit.
    """

    def __init__(self, config: ImageConfig, device: torch.device, ranks: Ranks) -> None:
        self.config, self.device = config, device
        ranks.parts(config.batch_size, config.accumulate)  # before anything is read
        data = config.data
        self.images = open_images(
            data.name, data.root, flip=data.flip, size=data.size, device=device
        )
        self.dataset = TrainingImages(self.images, config.conditional, config.label_dropout)
        info = ImageInfo.of(self.images)
        teacher = load_teacher(config, info, device) if config.teacher is not None else None
        perceptual = perceptual_distance(self.images, info) if config.loss.perceptual else None
        self.learner = build_learner(config, info, device, teacher, ranks, perceptual)
        self.model = ImageModel(config, info, self.learner)
        self.scores: dict[int, ImageScore] = {}
        self.announce(info)

    def announce(self, info: ImageInfo) -> None:
        """Say what is trained on what."""
        millions = self.parameters() / 1e6
        log.info(
            "data: %s, %d images of %s   loss: %s   network: %.2f million parameters",
            info.name, info.size, "×".join(map(str, info.shape)), self.config.loss.name, millions,
        )  # fmt: skip
        if self.learner.teacher_steps and self.learner.student is not None:
            log.info("the first %d updates train an EDM teacher", self.learner.teacher_steps)

    def parameters(self) -> int:
        """Of the network that samples."""
        return sum(p.numel() for p in self.model.part(None).network.parameters())

    def run_name(self) -> str:
        """Data and loss, a path below output_dir."""
        return f"{self.config.data.name}/{self.config.loss.name}"

    def samplers(self) -> dict[str, Sampler]:
        """Every way to sample that results report."""
        found: dict[str, Sampler] = {}
        if self.learner.student is not None and self.learner.step >= self.learner.teacher_steps:
            for k in STEPS:
                found[f"{k} step{'s' if k > 1 else ''}"] = self.model.few_steps(k)
        if self.learner.teacher is not None:
            found[f"teacher, Heun {TEACHER_STEPS}"] = self.model.many_steps()
        return found

    def reference(self, n: int, skip: int = 0) -> tuple[Tensor, Tensor | None]:
        """n training images, uint8 on the CPU, and their labels: the same ones each time."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))
        chosen = order.roll(-skip)[:n].to(self.device)
        labels = self.images.labels
        return self.images.images[chosen].cpu(), None if labels is None else labels[chosen].cpu()

    def distances(self, samplers: dict[str, Sampler], n: int, seed: int) -> ImageScore:
        """Of n samples with the labels of n images from these images."""
        n = min(n, len(self.images) // 2)
        images, labels = self.reference(n)
        given = labels if self.config.conditional else None
        rows = {}
        for name, sampler in samplers.items():
            batches = self.model.sample_batches(sampler, range(seed, seed + n), given, BATCH)
            rows[name] = pixel_distance(torch.cat(list(batches)), images)
        rows[DATA] = pixel_distance(self.reference(n, skip=n)[0], images)
        return ImageScore(rows, n)

    def evaluate(self, step: int) -> Evaluation:
        """During training: one step of the student, or the teacher; the same noise each time.

        A student counts before it is trained, so that no teacher's checkpoint is the best of a run.
        """
        has_student = self.learner.student is not None
        sampler = self.model.few_steps(1) if has_student else self.model.many_steps()
        score = self.distances({"model": sampler}, self.config.eval.samples, self.seed(0))
        row = score.distances["model"]
        return Evaluation(step, -row["pixel_sliced_w2"], {f"eval/{k}": v for k, v in row.items()})

    def seed(self, purpose: int) -> int:
        """Of the first sample for some purpose; those of two purposes lie far apart."""
        return 10_000_000 * (self.config.seed % 100 + 1) + 5_000_000 * purpose

    def final_score(self) -> ImageScore:
        """At the end: all samplers, with noise that no checkpoint was chosen by."""
        step = self.learner.step
        if step not in self.scores:
            n = self.config.eval.final_samples
            self.scores[step] = self.distances(self.samplers(), n, self.seed(1))
        return self.scores[step]

    def description(self) -> dict[str, Any]:
        """What a result must say of its data and method."""
        return {
            "task": self.config.data.name,
            "loss": asdict(self.config.loss),
            "network": {**asdict(self.config.network), "parameters": self.parameters()},
            "teacher": self.config.teacher,
            "seed": self.config.seed,
            "batch_size": self.config.batch_size,
            "processes": self.learner.ranks.size,
            "dataset": asdict(self.model.dataset),
        }

    def log_caveats(self) -> None:
        """Say how to go on."""
        log.info("for more samples: python -m cmpolicy.sample run=RUN")

    def save_model(self, run: RunDirectory) -> None:
        """The checkpoint holds all there is; `load_image_model` opens it."""

    def draw(self, run: RunDirectory, evaluations: list[Evaluation]) -> Path:
        """Write samples.png: by each sampler the same noise, all classes in turn."""
        path, seeds = run.path / "samples.png", range(SHEET_COLUMNS)
        labels = self.model.labels(seeds)
        rows = {DATA: self.reference(SHEET_COLUMNS)[0]}
        for name, sampler in reversed(self.samplers().items()):
            rows[name] = self.model.sample(sampler, seeds, labels)
        title = f"{self.config.loss.name} on {self.config.data.name}, step {self.learner.step}"
        draw_sheet(path, rows, columns=SHEET_COLUMNS, title=title)
        return path


def pixel_distance(samples: Tensor, images: Tensor) -> dict[str, float]:
    """Sliced 2-Wasserstein distance of two equally large sets of pictures, uint8 (N, C, H, W).

    √ of the mean over random directions of the squared distance of the sorted projections.
    """
    a, b = (x.flatten(1).double() / 127.5 - 1 for x in (samples, images))
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(a.shape[1], PROJECTIONS, generator=generator, dtype=a.dtype)
    directions = directions / directions.norm(dim=0)
    gap = (a @ directions).sort(0).values - (b @ directions).sort(0).values
    return {"pixel_sliced_w2": float(gap.square().mean().sqrt())}


def perceptual_distance(images: ImageDataset, info: ImageInfo) -> PerceptualDistance:
    """Of a classifier of these images.

    Raises:
        InputError: for images without labels.
    """
    classifier, _ = trained_classifier(
        images, seed=METRIC_SEED, otherwise="say loss.perceptual=false"
    )
    return PerceptualDistance(classifier.maps, info.mean, info.std)


def load_teacher(config: ImageConfig, info: ImageInfo, device: torch.device) -> EDMTeacher:
    """The teacher that another image run trained.

    Raises:
        InputError: if it has none that fits.
    """
    assert config.teacher is not None
    theirs = load_image_model(config.teacher, device=device, precision=config.precision)
    for key in ("conditional", "sigma_min", "sigma_max", "network", "loss.parameterization"):
        a, b = setting_at(theirs.config, key), setting_at(config, key)
        if a != b:
            raise InputError(
                f"the teacher of {config.teacher} has {key}={a}, this run {b}; give it as it was"
            )
    if (theirs.dataset.shape, theirs.dataset.classes) != (info.shape, info.classes):
        raise InputError(
            f"the teacher of {config.teacher} knows images of {theirs.dataset.shape} in "
            f"{theirs.dataset.classes} classes, the data has {info.shape} in {info.classes}"
        )
    trained = theirs.learner.teacher
    if trained is None or theirs.step < theirs.learner.teacher_steps:
        raise InputError(f"{config.teacher} has no teacher, or has not finished it")
    teacher = blank_teacher(config, info, device)
    for network in (teacher.network, teacher.average_network):
        network.load_state_dict(trained.average_network.state_dict())
    return teacher


def setting_at(config: Any, key: str) -> Any:
    """The value under a dotted key; of a network without its dropout, which may differ."""
    for name in key.split("."):
        config = getattr(config, name)
    return {**asdict(config), "dropout": None} if key == "network" else config
