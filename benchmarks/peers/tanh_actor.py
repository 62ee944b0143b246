"""Actors without the library that trained them, and a file of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class TanhActor(NamedTuple):
    """tanh of a network of the normalised observation, with ReLU between its layers."""

    mean: FloatArray  # (obs_dim,)
    std: FloatArray  # (obs_dim,)
    layers: list[tuple[FloatArray, FloatArray]]  # weights (in, out) and biases (out,)

    def __call__(self, observations: FloatArray) -> FloatArray:
        """(N, obs_dim) → (N, action_dim)."""
        hidden = (observations - self.mean) / self.std
        for weights, biases in self.layers[:-1]:
            hidden = np.maximum(hidden @ weights + biases, 0)
        weights, biases = self.layers[-1]
        actions: FloatArray = np.tanh(hidden @ weights + biases).astype(np.float32)
        return actions


def save_actors(path: Path, actors: Sequence[TanhActor]) -> None:
    """Write an npz file."""
    arrays = {}
    for number, actor in enumerate(actors):
        arrays[f"{number}.mean"], arrays[f"{number}.std"] = actor.mean, actor.std
        for place, (weights, biases) in enumerate(actor.layers):
            arrays[f"{number}.weights.{place}"] = weights
            arrays[f"{number}.biases.{place}"] = biases
    np.savez(path, **arrays)


def load_actor(path: Path, number: int) -> TanhActor:
    """One of those that `save_actors` wrote."""
    with np.load(path) as file:
        depth = sum(name.startswith(f"{number}.weights.") for name in file)
        layers = [
            (file[f"{number}.weights.{place}"], file[f"{number}.biases.{place}"])
            for place in range(depth)
        ]
        return TanhActor(file[f"{number}.mean"], file[f"{number}.std"], layers)
