"""A small convolutional encoder of pictures, and of vectors beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cmpolicy.consistency.randomness import uniform

HALF = 127.5  # entries of 0 to 255 are seen as −1 to 1


class PictureEncoder(nn.Module):
    """Flat observations, a picture and `vector` other entries each, → features (B, features).

    Of a history of observations the pictures are stacked as channels.

    Args:
        obs_dim: entries of all observations of a history.
        shape: of a picture, channels first or last: the smaller of the two sizes are the channels.
        vector: entries that follow the picture.
        features: how many are given.
        channels: of the convolutions, each of which halves the picture.
        shift: pixels by which training shifts pictures at most (Yarats et al. 2021).

    Raises:
        ValueError: if observations are not made of such pictures and vectors.
    """

    def __init__(
        self,
        obs_dim: int,
        shape: Sequence[int],
        vector: int = 0,
        features: int = 128,
        channels: Sequence[int] = (32, 32, 32, 32),
        shift: int = 4,
    ) -> None:
        super().__init__()
        self.shape, self.vector, self.shift = tuple(shape), vector, shift
        self.pixels = math.prod(shape)
        self.history = obs_dim // (self.pixels + vector)
        if len(self.shape) != 3 or self.history * (self.pixels + vector) != obs_dim or not obs_dim:
            raise ValueError(
                f"observations have {obs_dim} entries, not whole pictures of shape {self.shape} "
                f"with {vector} other entries each"
            )
        self.channels_last = shape[2] < shape[0]
        depth = self.history * (shape[2] if self.channels_last else shape[0])
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((depth, *channels)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.SiLU()]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        sizes = self.shape[:2] if self.channels_last else self.shape[1:]
        left = (-(-size // 2 ** len(channels)) for size in sizes)
        width = channels[-1] * math.prod(left)
        self.project = nn.Sequential(nn.Linear(width, features - self.history * vector), nn.Tanh())

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, history, *shape) and the other entries (B, history · vector)."""
        steps = x.reshape(-1, self.history, self.pixels + self.vector)
        pictures = steps[..., : self.pixels].reshape(-1, self.history, *self.shape)
        return pictures, steps[..., self.pixels :].flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, obs_dim) → (B, features)"""
        pictures, vectors = self.parts(x)
        if self.channels_last:
            pictures = pictures.movedim(-1, 2)
        features = self.project(self.convolutions(pictures.flatten(1, 2)))
        return torch.cat((features, vectors), dim=1)

    def units(self, mean: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Replace the measured statistics of pixels by those of their range, (obs_dim,) each."""
        replaced = []
        for measured in (mean, unit):
            steps = measured.reshape(self.history, -1).clone()
            steps[:, : self.pixels] = HALF
            replaced.append(steps.flatten())
        return replaced[0], replaced[1]

    def augment(self, observations: Tensor) -> Tensor:
        """Shift the pictures of each observation, edges repeated: (B, obs_dim) → (B, obs_dim)."""
        if self.shift == 0:
            return observations
        pictures, _ = self.parts(observations)
        x = pictures if self.channels_last else pictures.movedim(2, -1)
        moves = (uniform((len(x), 2), observations) * (2 * self.shift + 1)).long() - self.shift
        down, right = (
            (torch.arange(size, device=x.device) + moves[:, i : i + 1]).clamp(0, size - 1)
            for i, size in enumerate(x.shape[2:4])
        )
        step, sample = torch.arange(self.history, device=x.device), torch.arange(len(x))
        moved = x[
            sample.to(x.device)[:, None, None, None],
            step[None, :, None, None],
            down[:, None, :, None],
            right[:, None, None, :],
        ]
        moved = moved if self.channels_last else moved.movedim(-1, 2)
        steps = observations.reshape(len(x), self.history, -1)
        flat = moved.reshape(len(x), self.history, -1)
        return torch.cat((flat, steps[..., self.pixels :]), dim=-1).flatten(1)
