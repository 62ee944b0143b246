"""One thread, because networks of tests are small; a world without network; tiny runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from cmpolicy.cli.command import CONFIG_PATH

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


@pytest.fixture(scope="session")
def compose() -> Callable[..., Any]:
    """compose(*overrides, config="rl"): the configuration that a command would be given."""

    def composed(*overrides: str, config: str = "rl") -> Any:
        with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
            return OmegaConf.to_object(hydra.compose(config, list(overrides)))

    return composed


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Overrides of a run of 6 updates of an agent on the sample."""
    return (
        *("env=hopper-medium", "dataset.source=sample", "threads=1", "progress=false"),
        *("batch_size=8", "agent.policy.hidden=[8]", "steps=6"),
        *("eval.episodes=1", "eval.final_episodes=1"),
    )
