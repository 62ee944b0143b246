"""Who judges images: several extractors, the training images' features kept on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmpolicy.errors import InputError
from cmpolicy.images.dataset import ImageDataset
from cmpolicy.images.evaluation import Truth
from cmpolicy.images.extractors import open_extractor

INDEPENDENT = "efficientnet_lite0"  # of ImageNet; no loss and no choice of ours looks at it
REFERENCES = {INDEPENDENT: 10_000}  # training images it compares with, evenly spaced: it is slow


@dataclass(frozen=True)
class Judge:
    """An extractor with the features of the training images."""

    truth: Truth

    @property
    def name(self) -> str:
        """Of the extractor."""
        return self.truth.extractor.name

    def measure(self, sampler: str, samples: torch.Tensor) -> dict[str, float]:
        """Figures of samples (n, C, H, W) uint8, by column."""
        scores = self.truth.score(samples)
        found = {f"{sampler} frechet {self.name}": scores.frechet}
        if self.name != INDEPENDENT:
            found |= {
                f"{sampler} {measure} {self.name}": getattr(scores, measure)
                for measure in ("kid", "precision", "recall")
            }
        return {key: round(value, 5) for key, value in found.items()}


def open_judges(
    names: list[str],
    images: ImageDataset,
    folder: Path,
    weights: dict[str, Any],
    device: torch.device | str,
) -> list[Judge]:
    """Open them in this order; one without weights is left out with a line that says so.

    Args:
        images: the training images, with their name.
        folder: where features are kept.
        weights: files by extractor; by default those of installed packages.

    Raises:
        InputError: if the first one has no weights.
    """
    found: list[Judge] = []
    for name in names:
        try:
            extractor = open_extractor(name, images, path=weights.get(name), device=device)
        except InputError as error:
            if not found:
                raise
            print(f"{name} does not judge: {error}", flush=True)
            continue
        count = min(len(images), REFERENCES.get(name, len(images)))
        path = folder / f"{images.name}-{name}-{extractor.weights}-{count}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            index = torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()
            chosen = images.images[index.to(images.images.device)]
            np.save(path, extractor(chosen, progress=True))
        found.append(Judge(Truth(extractor, np.load(path), images)))
    return found
