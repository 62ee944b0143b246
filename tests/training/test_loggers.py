"""Where a run's log goes: what each logger is given, a missing package, offline."""

from __future__ import annotations

import shutil
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cmpolicy.cli.run_config import RunConfig
from cmpolicy.errors import InputError
from cmpolicy.training.loggers import (
    LOGGERS,
    Logger,
    TensorBoardLogger,
    check_installed,
    check_loggers,
)
from cmpolicy.training.run_directory import RunDirectory

CONFIG = "steps: 5\nagent:\n  name: ac\n  hidden: [8, 8]\n  decay: null\n"


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module in place of wandb that notes what it is given."""
    seen = SimpleNamespace(inits=[], logged=[], finished=0)

    def init(**options: Any) -> Any:
        def finish() -> None:
            seen.finished += 1

        seen.inits.append(options)
        return SimpleNamespace(
            id=options["id"] or "abc123",
            define_metric=lambda *args, **kwargs: None,
            log=seen.logged.append,
            finish=finish,
        )

    module: Any = ModuleType("wandb")
    module.init = init
    module.Histogram = lambda values: ("histogram", values.shape)
    module.Video = lambda path, format: ("video", Path(path).name, format)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return seen


def test_a_run_logs_to_wandb_and_goes_on_in_the_same_run(
    tmp_path: Path, wandb: SimpleNamespace
) -> None:
    for step in (0, 10):
        run = RunDirectory(tmp_path / "task" / "run")
        run.loggers = ["wandb"]
        if step == 0:
            run.create(CONFIG)
        run.open_logs(step)
        run.log(step + 5, {"loss": 0.5})
        run.log_histogram(step + 5, "actions", np.zeros((3, 2)))
        run.log_video(step + 5, "video", tmp_path / "step-5.mp4")
        run.close_logs()
    first, second = wandb.inits
    assert (first["id"], second["id"]) == (None, "abc123")
    assert (first["project"], first["name"]) == ("cmpolicy", "task/run")
    assert first["config"]["agent"]["name"] == "ac"
    assert wandb.logged[:3] == [
        {"loss": 0.5, "step": 5},
        {"actions": ("histogram", (6,)), "step": 5},
        {"video": ("video", "step-5.mp4", "mp4"), "step": 5},
    ]
    assert wandb.finished == 2
    assert not run.metrics_path.exists()


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    check_installed(["csv", "tensorboard"])
    with pytest.raises(InputError, match=r"wandb is not installed; install the extra: .*\[wandb\]"):
        check_installed(["csv", "wandb"])


def test_an_unknown_logger_is_refused() -> None:
    check_loggers([])
    with pytest.raises(ValueError, match="unknown logger 'mlflow', expected some of csv, tensorb"):
        RunConfig(logger=["csv", "mlflow"])


def test_offline_wandb_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    run = RunDirectory(tmp_path)
    run.create(CONFIG)
    run.loggers = ["wandb", "csv"]
    run.open_logs(0)
    run.log(5, {"loss": 0.5})
    run.log_histogram(5, "actions", np.zeros(4))
    run.close_logs()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert run.read_metrics() == [{"step": "5", "loss": "0.5"}]


def test_tensorboard_has_configuration_hyperparameters_and_histograms(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunDirectory(tmp_path)
    run.create(CONFIG)
    run.open_logs(0)
    run.log(5, {"eval/score": 1.5})
    run.log_histogram(5, "actions", np.array([0.0, 1.0, 1.0]))
    run.log_video(5, "video", tmp_path / "none.mp4")  # which only wandb shows
    run.close_logs()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert b"name: ac" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    (histogram,) = events.Histograms("actions")
    assert (histogram.step, histogram.histogram_value.num) == (5, 3)
    start = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"agent.name" in start
    assert b"ac" in start


def test_loggers_take_everything(tmp_path: Path) -> None:
    """A subclass need not show all that a run logs."""
    logger = Logger(tmp_path, 0, "")
    logger.scalars(1, {})
    logger.histogram(1, "x", np.zeros(2))
    logger.video(1, "x", tmp_path)
    logger.flush()
    logger.close()
    assert all(issubclass(kind, Logger) for kind in LOGGERS.values())


def test_a_thread_that_meets_a_full_disk_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    logger = TensorBoardLogger(tmp_path, 0, "a: 1")
    logger.flush()
    shutil.rmtree(tmp_path / "tensorboard")  # it cannot write any more

    def write_on() -> None:
        for step in range(1_000):
            logger.scalars(step, {"x": 1.0})
            logger.flush()

    with pytest.raises(FileNotFoundError):
        write_on()
    assert not told
    other = threading.Thread(target=int, args=("x",))
    other.start()
    other.join()
    assert [raised.exc_type for raised in told] == [ValueError]
    again = TensorBoardLogger(tmp_path / "again", 0, "a: 1")
    again.close()
    assert threading.excepthook.__qualname__.count("without_threads") == 1
