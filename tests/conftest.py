"""One thread: networks of tests are small, and workers share the cores. A world without network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from cmpolicy.training.run_directory import RunDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the commands that tests start
torch.set_num_threads(1)

# the discard port: nobody listens, and nobody is asked outside this machine
CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Empty directories for D4RL's and Minari's datasets, and nobody on the network."""
    d4rl, minari = tmp_path / "d4rl", tmp_path / "minari"
    for directory, variable in ((d4rl, "D4RL_DATASET_DIR"), (minari, "MINARI_DATASETS_PATH")):
        directory.mkdir()
        monkeypatch.setenv(variable, str(directory))
    for variable in ("D4RL_MIRROR", "HF_ENDPOINT"):
        monkeypatch.setenv(variable, CLOSED)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "MINARI_REMOTE"):
        monkeypatch.delenv(variable, raising=False)
    return d4rl, minari


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """killed_after(step): a context in which a run dies once it has saved that step."""

    class Killed(Exception):
        pass

    @contextmanager
    def context(stop: int) -> Iterator[None]:
        saved = RunDirectory.save_checkpoint

        def save(self: RunDirectory, name: str, state: Any) -> None:
            saved(self, name, state)
            if name == "last" and state["step"] == stop:
                raise Killed

        monkeypatch.setattr(RunDirectory, "save_checkpoint", save)
        with pytest.raises(Killed):
            yield
        monkeypatch.setattr(RunDirectory, "save_checkpoint", saved)

    return context
