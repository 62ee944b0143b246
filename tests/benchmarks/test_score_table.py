"""The table of runs: last and best apart, a stopped run as stopped, never as zero."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "score_table.py"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("score_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def write_run(path: Path, **parts: Any) -> str:
    path.mkdir()
    results = {
        "agent": "ac",
        "seed": 3,
        "dataset": {
            "dataset_id": "hopper-medium",
            "source": "file",
            "path": "/somewhere/else.hdf5",
            "transitions": 1234,
            "comparable": False,
            "mean_normalized_score": 48.4,
        },
        "updates_per_second": 60.0,
        "date": "2026-11-20T08:00:00+00:00",
        "machine": "x86_64",
        "device": "cpu",
        "versions": {"torch": "2.13.0"},
        "evaluations": [],
        **parts,
    }
    (path / "results.json").write_text(json.dumps(results))
    return str(path)


def scored(mean: float, **more: Any) -> dict[str, Any]:
    return {"normalized_score": mean, "score_standard_error": 2.0, "episodes": 20, **more}


def test_last_and_best_stand_apart(tmp_path: Path, table: ModuleType) -> None:
    last, best = scored(60.04, step=500), scored(81.0, step=400, chosen_by="…")
    run = write_run(tmp_path / "run", last=last, best=best)
    table.main("name", [f"mine={run}"])
    row = (tmp_path / "results" / "name.md").read_text().splitlines()[2]
    assert "| mine | 500 | 3 | 48.4 | 60.0 ± 2.0 (20 episodes) |" in row
    assert "81.0 ± 2.0 (20 episodes, step 400)" in row
    assert "not comparable" in row
    assert "/somewhere" not in (tmp_path / "results" / "name.json").read_text()


def test_a_stopped_run_is_not_a_zero(tmp_path: Path, table: ModuleType) -> None:
    evaluation = {f"eval/{key}": value for key, value in scored(18.2).items()}
    runs = [
        write_run(tmp_path / "a", evaluations=[{"step": 40, **evaluation}]),
        write_run(tmp_path / "b"),
    ]
    table.main("name", runs)
    text = (tmp_path / "results" / "name.md").read_text()
    assert "stopped; at step 40: 18.2 ± 2.0 (20 episodes) | missing" in text
    assert "| missing | missing |" in text


def test_it_names_every_machine_and_version(tmp_path: Path, table: ModuleType) -> None:
    gpu = {"machine": "H200", "device": "cuda", "versions": {"torch": "2.11.0"}}
    runs = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", **gpu, date="2026-11-22T08:00:00+00:00"),
        write_run(tmp_path / "c", date="2026-11-21T08:00:00+00:00"),
    ]
    table.main("name", runs)
    assert (
        (tmp_path / "results" / "name.md")
        .read_text()
        .endswith(
            "from runs of 2026-11-20 to 2026-11-22; x86_64, cpu; H200, cuda; torch 2.13.0, torch "
            "2.11.0.\n"
        )
    )
