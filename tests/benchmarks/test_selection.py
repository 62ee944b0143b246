"""The table of choices without a simulator."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest


def test_a_run_is_valued_once_and_its_regret_is_written(
    tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("selection")
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    results = {"task": "hopper-medium", "agent": "ac", "seed": 3, "versions": {"torch": "2"}}
    (run / "results.json").write_text(json.dumps(results))
    calls: list[list[str]] = []

    def select(command: list[str], check: bool) -> None:
        calls.append(command)
        rows = [(10, 5.0, 40.0), (20, 7.0, 60.0), (30, 6.0, 66.0)]
        policies = [{"step": s, "value": v, "score": x} for s, v, x in rows]
        selection = {"chosen": 20, "policies": policies, "settings": {"run": "r", "updates": 9}}
        (run / "selection.json").write_text(json.dumps(selection))

    monkeypatch.setattr(script.subprocess, "run", select)
    arguments = [f"runs=[{run}]", f"out={out}", "select=[updates=9]"]
    assert script.main(arguments) == script.main(arguments) == 0
    assert len(calls) == 1
    assert calls[0][2:] == ["cmpolicy.select", f"run='{run}'", "updates=9"]
    (row,) = csv.DictReader((out / "selection.csv").open())
    assert (row["chosen_step"], row["best_step"], row["seed"]) == ("20", "30", "3")
    assert float(row["regret"]) == 6
    assert float(row["regret_of_last"]) == 0
    assert float(row["regret_of_random"]) == pytest.approx(66 - 166 / 3, abs=0.01)
    assert float(row["rank_correlation"]) == 0.5
    assert row["settings"] == "updates=9"
    assert "| hopper-medium | ac | 3 | 3 | 60.00 | 66.00 |" in (out / "selection.md").read_text()
