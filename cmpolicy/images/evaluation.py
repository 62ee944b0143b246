"""Compare a run's samples, or images of an `.npz`, with a dataset or a reference file."""

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
from cmpolicy.images.model import load_image_model
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")
PROGRESS_FROM = 1_000  # images; extracting fewer shows no progress bar


@dataclass(frozen=True)
class Truth:
    """Real images to compare samples with."""

    extractor: Extractor
    features: NDArray[np.float64] | Statistics  # of the training images (N, D), or from a file
    images: ImageDataset | None  # the training images; None with only a file

    def score(self, samples: Tensor) -> ImageScores:
        """Compute all metrics of samples (n, C, H, W) uint8.

        Raises:
            InputError: if their shape differs from that of the images.
        """
        if self.images is not None and tuple(samples.shape[1:]) != self.images.shape:
            mine, theirs = ("×".join(map(str, s)) for s in (samples.shape[1:], self.images.shape))
            raise InputError(f"the samples are {mine}, the images of {self.images.name} {theirs}")
        found = self.extractor(samples, progress=len(samples) >= PROGRESS_FROM)
        return score_features(found, self.features, self.extractor)

    def labels(self, n: int) -> Tensor | None:
        """Return labels (n,) as frequent as in the data; None without labels."""
        if self.images is None or self.images.labels is None:
            return None
        return self.images.labels.cpu()[_spread(len(self.images), n)]

    def floor(self, root: str | None, size: int | None, n: int) -> dict[str, ImageScores]:
        """Score at most n test images, evenly spaced; empty without test images.

        The first n would not do: MNIST's were written by other people than the rest.
        """
        if self.images is None:
            return {}
        try:
            test = open_images(self.images.name, root, "test", size=size)
        except InputError as error:
            log.info("test images are not compared: %s", error)
            return {}
        return {"test images": self.score(test.images[_spread(len(test), min(n, len(test)))])}


def _spread(size: int, n: int) -> Tensor:
    """Return n evenly spaced indices below `size`, (n,) int64."""
    return torch.linspace(0, size - 1, n, dtype=torch.float64).round().long()


def open_truth(config: ImageMetricsConfig, data: ComparedImages, device: torch.device) -> Truth:
    """Open training images or a reference file, with their features.

    Raises:
        InputError: if neither is given, or the file does not fit the extractor.
    """
    images = None
    if data.name is not None:
        images = open_images(data.name, data.root, size=data.size, device=device)
    extractor = open_extractor(config.extractor, images, path=config.weights, device=device)
    if config.reference is not None:
        return Truth(extractor, read_reference(config.reference), images)
    if images is None:
        raise InputError("nothing to compare with; give data.name=NAME or reference=FILE")
    features = extractor(images.images, progress=len(images) >= PROGRESS_FROM)
    if config.save_reference is not None:
        write_reference(config.save_reference, statistics(features))
        log.info("reference: %s", config.save_reference)
    return Truth(extractor, features, images)


def evaluate_npz(config: ImageMetricsConfig, device: torch.device) -> None:
    """Print the metrics of the images in a file."""
    assert config.npz is not None
    path = Path(config.npz)
    if not path.is_file():
        raise InputError(f"there is no file {path}, expected an .npz of images")
    samples = torch.from_numpy(read_npz(path).images)
    truth = open_truth(config, config.data, device)
    _print_table({path.name: truth.score(samples)})


def evaluate_image_run(
    config: ImageMetricsConfig, directory: RunDirectory, device: torch.device
) -> None:
    """Sample from a run and print metrics; each sampler adds a row to evaluations.jsonl."""
    model = load_image_model(directory.path, config.checkpoint, device)
    chosen, own = config.data, model.config.data
    data = ComparedImages(chosen.name or own.name, chosen.root or own.root, chosen.size or own.size)
    truth = open_truth(config, data, device)
    labels = truth.labels(config.num_samples) if model.config.conditional else None
    rows = {}
    for name, sampler in model.samplers(config.steps).items():
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
    _print_table(rows | truth.floor(data.root, data.size, config.num_samples))


def _print_table(rows: Mapping[str, ImageScores]) -> None:
    width = max(map(len, rows))
    for name, scores in rows.items():
        print(f"{name:{width}}  {scores}")
