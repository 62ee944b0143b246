"""Train a small classifier on labelled images, and compare images by its features."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from cmpolicy.atomic_file import write_atomically
from cmpolicy.consistency.loss_metrics import mean_squared
from cmpolicy.errors import InputError, one_line
from cmpolicy.generative.learner import SIGMA_DATA

log = logging.getLogger("cmpolicy")

FEATURES = 128
CHANNELS = 32
UPDATES, BATCH_SIZE = 800, 128
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-2
PIXELS = 0.1  # weight of the pixels in the distance, for what the classifier does not see
SIZE_IMAGES = 1000  # images from which the size of the features is measured


class LabelledImages(Protocol):
    """Images to classify."""

    @property
    def images(self) -> Tensor: ...  # (N, C, H, W) uint8

    @property
    def labels(self) -> Tensor | None: ...  # (N,) int64

    @property
    def classes(self) -> int: ...


class ImageClassifier(nn.Module):
    """Three convolutions and two linear layers, about 0.2M parameters for 28 × 28 pixels.

    Args:
        shape: (C, H, W) of an image, at least 4 pixels a side.
        classes: number of classes.
    """

    size: Tensor

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for out in (CHANNELS // 2, CHANNELS, 2 * CHANNELS):
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.GroupNorm(4, out), nn.SiLU()]
            if min(height, width) > 3:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            channels = out
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.hidden = nn.Linear(channels * height * width, FEATURES)
        self.head = nn.Linear(FEATURES, classes)
        self.register_buffer("size", torch.ones(()))

    def features(self, images: Tensor) -> Tensor:
        """Compute features (B, 128) of mean square 1 from images (B, C, H, W) uint8.

        The cubic kernel of the KID, (xᵀy/D + 1)³, expects features of that size.
        """
        return self.embed(images) / self.size

    def maps(self, x: Tensor) -> list[Tensor]:
        """Compute each convolution's output (B, C', H', W') from pixels (B, C, H, W) in [−1, 1]."""
        found = []
        for layer in list(self.body)[:-1]:
            x = layer(x)
            if isinstance(layer, nn.SiLU):
                found.append(x)
        return found

    def embed(self, images: Tensor) -> Tensor:
        """Compute `features` before they are scaled, (B, 128)."""
        x: Tensor = self.hidden(self.body(images.float() / 127.5 - 1))
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, classes) from images (B, C, H, W) uint8."""
        logits: Tensor = self.head(F.silu(self.embed(images)))
        return logits


def cache_directory() -> Path:
    """Return `$CMPOLICY_CACHE`, or `~/.cache/cmpolicy`."""
    return Path(os.environ.get("CMPOLICY_CACHE") or "~/.cache/cmpolicy").expanduser()


def trained_classifier(
    data: LabelledImages,
    *,
    seed: int = 0,
    cache: Path | None = None,
    otherwise: str = "use efficientnet_lite0 or inception",
) -> tuple[ImageClassifier, str]:
    """Train the classifier of a labelled dataset, or load it from the cache.

    Training takes half a minute on one core for MNIST. The same data and seed give the same
    weights; torch's global generator is not changed.

    Args:
        cache: directory, by default `cache_directory()`; files are named after a hash of data,
            seed and settings.
        otherwise: advice for data without labels.

    Returns:
        The network in evaluation mode on the data's device, and that hash.

    Raises:
        InputError: for data without labels.
    """
    if data.labels is None or data.classes < 2:
        raise InputError(
            f"the classifier needs labels, and these images have no labels; {otherwise}"
        )
    labels, device = data.labels, data.images.device
    key = _data_hash(data.images, labels, seed)
    path = (cache or cache_directory()) / f"classifier-{key}.safetensors"
    shape = (data.images.shape[1], data.images.shape[2], data.images.shape[3])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ImageClassifier(shape, data.classes).to(device)
    if not _load_cached(network, path, device):
        log.info("training a classifier on %d images", len(labels))
        fit(network, data.images, labels, seed)
        with torch.no_grad():
            embedded = network.embed(data.images[:SIZE_IMAGES])
            network.size.copy_(embedded.square().mean().sqrt())
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        write_atomically(path, save(weights))
    return network.eval().requires_grad_(False), key


def _load_cached(network: nn.Module, path: Path, device: torch.device) -> bool:
    """Load weights; False if there are none, or they are damaged."""
    try:
        network.load_state_dict(load_file(path, device=str(device)))
    except FileNotFoundError:
        return False
    except (SafetensorError, OSError, RuntimeError) as error:
        log.warning("%s is damaged (%s) and made again", path, one_line(error))
        return False
    return True


def fit(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> None:
    """Minimise cross entropy with AdamW and a cosine learning rate."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES)
    for _ in range(UPDATES):
        chosen = torch.randint(len(labels), (BATCH_SIZE,), generator=generator).to(images.device)
        loss = F.cross_entropy(network(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _data_hash(images: Tensor, labels: Tensor, seed: int) -> str:
    """Hash everything that the trained weights depend on, to 16 hexadecimal digits."""
    training = (UPDATES, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, SIZE_IMAGES)
    settings = (FEATURES, CHANNELS, *training, seed)
    digest = hashlib.sha256(repr((settings, tuple(images.shape))).encode())
    for tensor in (images, labels):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class PerceptualDistance:
    """Σ_l E_hw ‖φ̂_l(a) − φ̂_l(b)‖² + 0.1 ‖a − b‖²/d: Zhang et al. 2018 (LPIPS), eq. 1 with w = 1.

    φ̂_l are a network's feature maps with the channels of each pixel normalised to length 1. Song et
    al. 2023, §6.1, train with such a metric.

    Args:
        maps: pixels in [−1, 1] (B, C, H, W) → feature maps, each (B, C', H', W').
        mean, std: of the data's pixels, to undo the scaling of x₀.
    """

    def __init__(self, maps: Callable[[Tensor], Sequence[Tensor]], mean: float, std: float) -> None:
        self.maps, self.mean, self.scale = maps, mean, std / SIGMA_DATA

    def features(self, x0: Tensor) -> list[Tensor]:
        """Compute the normalised feature maps of x₀ (B, C, H, W)."""
        maps = self.maps(x0 * self.scale + self.mean)
        return [F.normalize(features, dim=1, eps=1e-6) for features in maps]

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Compute distances (B,) of two batches of x₀, each (B, C, H, W)."""
        distance = PIXELS * mean_squared(a, b)
        for mine, theirs in zip(self.features(a), self.features(b), strict=True):
            distance = distance + (mine - theirs).square().sum(1).mean((1, 2))
        return distance
