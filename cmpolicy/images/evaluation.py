"""Pictures compared with a dataset, or with a file of its statistics: of a run, or of an `.npz`."""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmpolicy.errors import InputError
from cmpolicy.images.config import ComparedImages, ImageMetricsConfig
from cmpolicy.images.dataset import ImageDataset, open_images
from cmpolicy.images.extractors import Extractor, open_extractor
from cmpolicy.images.files import read_npz
from cmpolicy.images.metrics import (
    ImageScores,
    Statistics,
    read_reference,
    score_features,
    statistics,
    write_reference,
)
from cmpolicy.images.model import ImageModel, Sampler, load_image_model
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")
STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Truth:
    """What pictures are compared with.

    Attributes:
        extractor: of the features.
        features: of the training images, (N, D), or statistics of some images from a file.
        images: the training images; None where there is only a file.
    """

    extractor: Extractor
    features: NDArray[np.float64] | Statistics
    images: ImageDataset | None

    def score(self, samples: Tensor) -> ImageScores:
        """Of pictures (n, C, H, W) uint8.

        Raises:
            InputError: if they have another shape than the images.
        """
        if self.images is not None and tuple(samples.shape[1:]) != self.images.shape:
            mine, theirs = ("×".join(map(str, s)) for s in (samples.shape[1:], self.images.shape))
            raise InputError(f"the samples are {mine}, the images of {self.images.name} {theirs}")
        found = self.extractor(samples, progress=len(samples) >= 1_000)
        return score_features(found, self.features, self.extractor)

    def labels(self, n: int) -> Tensor | None:
        """Of n training images, drawn evenly: samples get classes as often as the data has them."""
        if self.images is None or self.images.labels is None:
            return None
        return self.images.labels.cpu()[spread(len(self.images), n)]

    def floor(self, root: str | None, size: int | None, n: int) -> dict[str, ImageScores]:
        """The same figures of n test images at most, drawn evenly; empty where there are none.

        Not of the first n: those of MNIST were written by other people than the rest.
        """
        if self.images is None:
            return {}
        try:
            test = open_images(self.images.name, root, "test", size=size)
        except InputError as error:
            log.info("without test images to compare: %s", error)
            return {}
        chosen = spread(len(test), min(n, len(test))).to(test.images.device)
        return {"test images": self.score(test.images[chosen])}


def spread(size: int, n: int) -> Tensor:
    """n indices into so many, evenly spaced, (n,) int64."""
    return torch.linspace(0, size - 1, n, dtype=torch.float64).round().long()


def open_truth(config: ImageMetricsConfig, data: ComparedImages, device: torch.device) -> Truth:
    """Training images, or a reference file, with the extractor's features of them.

    Raises:
        InputError: if neither is there, or does not fit the extractor.
    """
    images = None
    if data.name is not None:
        images = open_images(data.name, data.root, size=data.size, device=device)
    extractor = open_extractor(config.extractor, images, path=config.weights, device=device)
    if config.reference is not None:
        return Truth(extractor, read_reference(config.reference), images)
    if images is None:
        raise InputError("nothing to compare with; give data.name=NAME or reference=FILE")
    features = extractor(images.images, progress=len(images) >= 1_000)
    if config.save_reference is not None:
        write_reference(config.save_reference, statistics(features))
        log.info("reference: %s", config.save_reference)
    return Truth(extractor, features, images)


def evaluate_npz(config: ImageMetricsConfig, device: torch.device) -> None:
    """Compare the pictures of a file."""
    assert config.npz is not None
    path = Path(config.npz)
    if not path.is_file():
        raise InputError(f"there is no file {path}, expected an .npz of pictures")
    samples = torch.from_numpy(read_npz(path).images)
    truth = open_truth(config, config.data, device)
    print_table({path.name: truth.score(samples)})


def evaluate_image_run(
    config: ImageMetricsConfig, directory: RunDirectory, device: torch.device
) -> None:
    """Sample from a run and compare; each sampler is a row of evaluations.jsonl."""
    model = load_image_model(directory.path, config.checkpoint, device)
    given, own = config.data, model.config.data
    data = ComparedImages(given.name or own.name, given.root or own.root, given.size or own.size)
    truth = open_truth(config, data, device)
    labels = truth.labels(config.num_samples) if model.config.conditional else None
    rows = {}
    for name, sampler in samplers(model, config.steps).items():
        seeds = range(config.seed, config.seed + config.num_samples)
        batches = model.sample_batches(sampler, seeds, labels, config.batch_size)
        rows[name] = truth.score(torch.cat(list(batches)))
        directory.append_evaluation(
            {
                "checkpoint": config.checkpoint,
                "step": model.step,
                "sampler": name,
                "seed": config.seed,
                **dataclasses.asdict(rows[name]),
                "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            }
        )
    floor = truth.floor(data.root, data.size, config.num_samples)
    print_table(rows | floor)


def samplers(model: ImageModel, steps: int | None) -> dict[str, Sampler]:
    """The student's of that many steps, or of 1, 2 and 5, and the teacher's."""
    found: dict[str, Sampler] = {}
    if model.learner.student is not None:
        for k in STEPS if steps is None else (steps,):
            found[f"{k} step{'s' if k > 1 else ''}"] = model.few_steps(k)
    if model.learner.teacher is not None and (steps is None or not found):
        sampler = model.many_steps() if steps is None else model.many_steps(steps)
        found[f"teacher, Heun {len(sampler.levels) - 1}"] = sampler
    return found


def print_table(rows: Mapping[str, ImageScores]) -> None:
    """One line a row, with how many pictures each figure is of."""
    width = max(map(len, rows))
    for name, scores in rows.items():
        print(f"{name:{width}}  {scores}")
