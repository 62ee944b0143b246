"""A small classifier, trained in place on labelled images, for its features."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from cmpolicy.atomic_file import write_atomically
from cmpolicy.errors import InputError

log = logging.getLogger("cmpolicy")

FEATURES = 128
CHANNELS = 32
UPDATES, BATCH_SIZE = 800, 128
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-2
SIZE_IMAGES = 1000  # that tell how large features are


class LabelledImages(Protocol):
    """What the classifier trains on."""

    @property
    def images(self) -> Tensor: ...  # (N, C, H, W) uint8

    @property
    def labels(self) -> Tensor | None: ...  # (N,) int64

    @property
    def classes(self) -> int: ...


class ImageClassifier(nn.Module):
    """Three convolutions and two linear maps, about 0.2M parameters on 28 × 28 pixels.

    Args:
        shape: (C, H, W) of an image, at least 4 pixels a side.
        classes: how many.
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
        """(B, C, H, W) uint8 → (B, 128), before the last nonlinearity, of mean square 1.

        The cubic kernel of the KID, (xᵀy/D + 1)³, is made for features of that size.
        """
        return self.embed(images) / self.size

    def maps(self, x: Tensor) -> list[Tensor]:
        """Pixels between −1 and 1, (B, C, H, W) → what each convolution finds, (B, C', H', W')."""
        found = []
        for layer in list(self.body)[:-1]:
            x = layer(x)
            if isinstance(layer, nn.SiLU):
                found.append(x)
        return found

    def embed(self, images: Tensor) -> Tensor:
        """The same as `features`, in the units of the weights."""
        x: Tensor = self.hidden(self.body(images.float() / 127.5 - 1))
        return x

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 → (B, classes) logits."""
        logits: Tensor = self.head(F.silu(self.embed(images)))
        return logits

    @torch.no_grad()
    def measure_size(self, images: Tensor) -> None:
        """The root mean square of the features of these images."""
        self.size.copy_(self.embed(images).square().mean().sqrt())


def cache_directory() -> Path:
    """`$CMPOLICY_CACHE`, or `~/.cache/cmpolicy`."""
    return Path(os.environ.get("CMPOLICY_CACHE") or "~/.cache/cmpolicy").expanduser()


def trained_classifier(
    data: LabelledImages,
    *,
    seed: int = 0,
    cache: Path | None = None,
    otherwise: str = "use efficientnet_lite0 or inception",
) -> tuple[ImageClassifier, str]:
    """The classifier of a labelled dataset, from the cache or trained now, and what names it.

    Half a minute on one core for MNIST. The same data and seed give the same weights; torch's
    global generator is left as it was.

    Args:
        cache: a directory, by default `cache_directory()`; its files are named by a hash of data,
            seed and settings.
        otherwise: what to do where there are no labels, for the error.

    Returns:
        The network in evaluation mode on the data's device, and that hash.

    Raises:
        InputError: for data without labels.
    """
    if data.labels is None or data.classes < 2:
        raise InputError(
            "a classifier needs a dataset with labels, and these images have no labels; "
            f"{otherwise}"
        )
    labels, device = data.labels, data.images.device
    key = data_hash(data.images, labels, seed)
    path = (cache or cache_directory()) / f"classifier-{key}.safetensors"
    shape = (data.images.shape[1], data.images.shape[2], data.images.shape[3])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ImageClassifier(shape, data.classes).to(device)
    if path.is_file():
        network.load_state_dict(load_file(path, device=str(device)))
    else:
        log.info("training a classifier on %d images", len(labels))
        fit(network, data.images, labels, seed)
        network.measure_size(data.images[:SIZE_IMAGES])
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        write_atomically(path, save(weights))
    return network.eval().requires_grad_(False), key


def fit(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> None:
    """Cross entropy, AdamW, a learning rate that falls along a cosine."""
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


def data_hash(images: Tensor, labels: Tensor, seed: int) -> str:
    """Sixteen hexadecimal digits of everything that the trained weights depend on."""
    training = (UPDATES, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, SIZE_IMAGES)
    settings = (FEATURES, CHANNELS, *training, seed)
    digest = hashlib.sha256(repr((settings, tuple(images.shape))).encode())
    for tensor in (images, labels):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
