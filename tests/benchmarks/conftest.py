"""Scripts of benchmarks/ as modules, and small data for them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script by name, imported as when it is run."""

    def import_script(name: str) -> ModuleType:
        folder, _, module = name.rpartition("/")
        monkeypatch.syspath_prepend(str(BENCHMARKS / folder))
        return importlib.import_module(module)

    before = set(sys.modules)
    yield import_script
    for name in set(sys.modules) - before:
        if (file := getattr(sys.modules[name], "__file__", None)) and "benchmarks" in file:
            del sys.modules[name]


def random_hopper(path: Path, seed: int = 0, steps: int = 120, **attributes: Any) -> Path:
    """Random steps in D4RL's layout with Hopper's shapes; every 20th ends an episode.

    Every other episode is ended by the environment; the file is cut short without a flag.
    """
    rng = np.random.default_rng(seed)
    last = np.arange(steps) % 20 == 19
    last[-1] = False
    terminals = last & (np.arange(steps) // 20 % 2 == 0)
    with h5py.File(path, "w") as file:
        file["observations"] = rng.normal(size=(steps, 11)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, size=(steps, 3)).astype(np.float32)
        file["rewards"] = rng.normal(size=steps).astype(np.float32)
        file["terminals"] = terminals
        file["timeouts"] = last & ~terminals
        file.attrs.update({"env_id": "Hopper-v5", **attributes})
    return path


@pytest.fixture
def write_hopper() -> Callable[..., Path]:
    """`random_hopper`, to write a file."""
    return random_hopper


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with hopper-medium and hopper-expert."""
    path = tmp_path / "data"
    path.mkdir()
    random_hopper(path / "hopper-medium.hdf5", 1)
    random_hopper(path / "hopper-expert.hdf5", 2)
    return path
