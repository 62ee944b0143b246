"""The files of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cmpolicy.errors import InputError
from cmpolicy.training.run_directory import RunDirectory


def test_nothing_is_created_before_it_is_asked_for(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run")
    with pytest.raises(InputError, match=r"is not a run: it holds no config\.yaml"):
        RunDirectory.existing(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_create_writes_the_configuration_once(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "deep" / "run")
    run.create("steps: 5\n")
    assert RunDirectory.existing(run.path).config_path.read_text() == "steps: 5\n"
    with pytest.raises(InputError, match="already holds a run; continue it with resume="):
        run.create("steps: 6\n")
    assert run.config_path.read_text() == "steps: 5\n"


def test_one_process_at_a_time_trains_a_run(tmp_path: Path) -> None:
    program = (
        "import sys, time; from cmpolicy.training.run_directory import RunDirectory;"
        "run = RunDirectory(sys.argv[1]); run.create(''); print('ready', flush=True);"
        "time.sleep(60)"
    )
    path = tmp_path / "run"
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        for start in (RunDirectory(path).lock, lambda: RunDirectory(path).create("")):
            with pytest.raises(InputError, match="another process is training") as error:
                start()
            assert "\n" not in str(error.value)
        other.kill()
    mine = RunDirectory(path)
    mine.lock()
    with pytest.raises(InputError, match="another process is training"):
        RunDirectory(path).lock()
    mine.unlock()
    RunDirectory(path).lock()
    assert sorted(p.name for p in path.iterdir()) == ["checkpoints", "config.yaml"]


def test_runs_below_are_locked_and_unlocked_with_the_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    seed = run.below("seed-3")
    with pytest.raises(InputError, match=r"another process is training .*seed-3"):
        RunDirectory(seed.path).lock()
    run.unlock()
    RunDirectory(seed.path).lock()


def test_an_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    for path in (tmp_path / "file" / "run", tmp_path / "file"):
        for rename in (False, True)[: 1 + (path.name == "run")]:
            with pytest.raises(InputError, match=r"cannot write to .*; choose another") as error:
                RunDirectory(path).create("", rename=rename)
            assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_rows_of_one_step_are_one_row_and_those_beyond_the_checkpoint_are_dropped(
    tmp_path: Path,
) -> None:
    run = RunDirectory(tmp_path)
    run.open_logs(0)
    run.log(10, {"loss": 1.5})
    run.log(20, {"loss": 1.0})
    run.log(20, {"score": 7.0})
    run.log(30, {"loss": 0.5})
    run.close_logs()
    run = RunDirectory(tmp_path)
    run.open_logs(20)
    run.log(30, {"loss": 5.0})
    run.close_logs()
    assert run.read_metrics() == [
        {"step": "10", "loss": "1.5", "score": ""},
        {"step": "20", "loss": "1.0", "score": "7.0"},
        {"step": "30", "loss": "5.0", "score": ""},
    ]


def test_tensorboard_has_what_the_table_has(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunDirectory(tmp_path)
    run.open_logs(0)
    for step in (10, 20):
        run.log(step, {"loss": step / 4})
    run.close_logs()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 2.5), (20, 5.0)]


def test_checkpoints_have_names(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create("")
    run.save_checkpoint("best", {"weight": torch.ones(2)})
    assert torch.equal(run.load_checkpoint("best")["weight"], torch.ones(2))
    with pytest.raises(InputError, match=r"no checkpoint at .*last"):
        run.load_checkpoint("last")


def test_new_directories_never_collide(tmp_path: Path) -> None:
    runs = [RunDirectory(tmp_path / "deep" / "run") for _ in range(3)]
    for run in runs:
        run.create("", rename=True)
    assert [run.path.name for run in runs] == ["run", "run-2", "run-3"]
    assert all(run.config_path.exists() for run in runs)


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create("")
    for place in (tmp_path, tmp_path / "checkpoints"):
        (place / ".last.safetensors.77.tmp").write_text("half")
    run.open_logs(0)
    run.close_logs()
    assert not list(tmp_path.rglob("*.tmp"))


def test_metrics_with_a_byte_order_mark_are_read_and_others_refused(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.metrics_path.write_bytes(b"\xef\xbb\xbfstep,loss\n3,0.5\n")
    assert run.read_metrics() == [{"step": "3", "loss": "0.5"}]
    for content in ("loss\n1\n", "step\nmany\n", "step,loss\n\x00,1\n", "step\n-1\n"):
        run.metrics_path.write_text(content)
        with pytest.raises(InputError, match=r"metrics\.csv is damaged: expected a whole number"):
            run.open_logs(0)


@pytest.mark.parametrize("content", [None, "", "{", "\x00"])
def test_results_that_do_not_read_are_refused(tmp_path: Path, content: str | None) -> None:
    run = RunDirectory(tmp_path)
    if content is not None:
        run.results_path.write_text(content)
    with pytest.raises(InputError, match=r"results\.json is missing or damaged"):
        run.read_results()


def test_results_and_evaluations_are_json(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_results({"seed": 3, "references": (1.0, 2.0)})
    assert run.read_results() == {"seed": 3, "references": [1.0, 2.0]}
    run.append_evaluation({"score": 1})
    run.append_evaluation({"score": 2})
    lines = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"score": 1}, {"score": 2}]
