"""One thread, because networks of tests are small; a world without network; tiny runs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from cmpolicy.cli.command import CONFIG_PATH
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


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    """command(module, *arguments): (exit code, stderr), in this process to save its start."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    loggers = [logging.getLogger(), logging.getLogger("cmpolicy")]
    before = [(x.handlers[:], x.level, x.propagate) for x in loggers]

    def call(module: Any, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        capsys.readouterr()
        try:
            module.main()
        except SystemExit as left:
            return int(left.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    yield call
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate
        logger.manager._clear_cache()


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """The tensors and values of a state by their paths."""
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return {k: v for key, child in items for k, v in leaves(child, f"{path}/{key}").items()}
    return {path: node}


@pytest.fixture(scope="session")
def assert_equal_runs() -> Callable[[Path, Path], None]:
    """assert_equal_runs(a, b): equal checkpoints and metrics but for what a clock measured."""

    def table(run: RunDirectory) -> list[dict[str, str]]:
        rows = run.read_metrics()
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]

    def compare(a: Path, b: Path) -> None:
        ours, theirs = RunDirectory(a), RunDirectory(b)
        for name in ("last", "best"):
            left, right = (leaves(run.load_checkpoint(name)) for run in (ours, theirs))
            assert left.keys() == right.keys()
            for key, value in left.items():
                equal = torch.equal if isinstance(value, torch.Tensor) else lambda x, y: x == y
                assert key == "/seconds" or equal(value, right[key]), f"{name}{key}"
        assert table(ours) == table(theirs)

    return compare
