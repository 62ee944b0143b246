"""What an evaluation logs beside scores; it changes nothing of the training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmpolicy.errors import InputError
from cmpolicy.rl import evaluation_log
from cmpolicy.rl.task import OfflineRL
from cmpolicy.training.loop import Evaluation
from cmpolicy.training.run_directory import RunDirectory


class Recorded(RunDirectory):
    """A run that remembers what is logged."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.seen: dict[str, Any] = {}

    def log(self, step: int, scalars: Any) -> None:
        self.seen |= {name: (step, value) for name, value in scalars.items()}

    def log_histogram(self, step: int, name: str, values: Any) -> None:
        self.seen[name] = (step, values)

    def log_video(self, step: int, name: str, path: Path) -> None:
        self.seen[name] = (step, path.name)


@pytest.fixture
def task(
    tmp_path: Path,
    write_data: Callable[..., Path],
    register: Callable[..., str],
    compose: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> OfflineRL:
    """Cloning in two dimensions of actions, a video every second evaluation."""
    monkeypatch.setattr("cmpolicy.rl.task.check_video", lambda: None)
    path = write_data(tmp_path / "mine.hdf5", 11, 3)
    config = compose(
        *(f"dataset.path={path}", "env.id=Hopper-v5", "agent=bc", "agent.policy.hidden=[8]"),
        "eval.video_every=2",
    )
    return OfflineRL(config, torch.device("cpu"))


def test_actions_are_logged_with_those_of_the_data(task: OfflineRL, tmp_path: Path) -> None:
    run, before = Recorded(tmp_path), torch.get_rng_state()
    task.log_details(run, [Evaluation(10, 0.0, {})])
    assert torch.equal(torch.get_rng_state(), before)
    assert set(run.seen) == {"data/mean_score"} | {
        f"actions_{i}/{of}" for i in range(3) for of in ("policy", "data")
    }
    assert run.seen["data/mean_score"] == (10, task.data_score())
    step, data = run.seen["actions_1/data"]
    assert step == 10
    assert np.isin(data, task.dataset.actions[:, 1].numpy()).all()
    _, own = run.seen["actions_1/policy"]
    assert own.shape == data.shape == (512,)
    assert (np.abs(own) <= 1).all()


def test_every_second_evaluation_has_a_video(
    task: OfflineRL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = []

    def write(act: Any, environment: Any, path: Path, seed: int, window: Any) -> Path:
        played.append((act(np.zeros((1, 11), np.float32)).shape, environment, seed))
        return path

    monkeypatch.setattr(evaluation_log, "write_video", write)
    evaluations = [Evaluation(step, 0.0, {}) for step in (10, 20, 30, 40)]
    runs = []
    for n in (1, 2, 3, 4):
        runs.append(Recorded(tmp_path))
        task.log_details(runs[-1], evaluations[:n])
    assert ["video" in run.seen for run in runs] == [False, True, False, True]
    assert runs[1].seen["video"] == (20, "step-20.mp4")
    assert played == [((1, 3), task.env, task.eval_seed(step)) for step in (20, 40)]


def test_a_machine_that_cannot_render_trains_on(
    task: OfflineRL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def refuse(*args: Any) -> Path:
        raise InputError("nothing can be rendered here")

    monkeypatch.setattr(evaluation_log, "write_video", refuse)
    monkeypatch.setattr(logging.getLogger("cmpolicy"), "propagate", True)
    run = Recorded(tmp_path)
    task.log_details(run, [Evaluation(10, 0.0, {}), Evaluation(20, 0.0, {})])
    assert "no video: nothing can be rendered here" in caplog.text
    assert "video" not in run.seen
