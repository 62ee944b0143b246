"""Scores by the number of network calls: a real run, rolled out as `evaluate` does it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cmpolicy.evaluate import EvaluateConfig, evaluate


def test_each_column_is_what_evaluate_says(load: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["steps=20", "batch_size=32", "eval.every=20", "eval.episodes=2", "progress=false"]
    source = ["env=hopper-medium", "dataset.source=sample", "agent=bc", "agent.mode_of=4"]
    command = [sys.executable, "-m", "cmpolicy.train", *source, *settings]
    subprocess.run([*command, "eval.final_episodes=2", f"run_dir={run}"], check=True)
    options = [f"runs=[{run}]", "steps=[1,3]", "episodes=2", "seed=5", f"out={tmp_path}"]
    load("network_calls").main(options)
    [row] = json.loads((tmp_path / "network_calls.json").read_text())["rows"]
    assert (row["task"], row["agent"], row["updates"]) == ("hopper-medium", "bc", 20)
    for steps in (1, 3):
        evaluate(EvaluateConfig(run=str(run), steps=steps, episodes=2, seed=5), [])
        evaluated = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])
        expected = [evaluated["normalized_score"], evaluated["score_standard_error"]]
        assert row["scores"][str(steps)] == pytest.approx(expected)
    table = (tmp_path / "network_calls.md").read_text()
    assert "| data | agent | seed | updates | 1 call | 3 calls |" in table
    assert "against the best: 1 call " in table
    assert "the mode of 4 samples acts" in table


def test_what_cannot_be_compared_is_refused(load: Any, tmp_path: Path) -> None:
    script = load("network_calls")
    with pytest.raises(SystemExit, match="no runs"):
        script.main([])
    with pytest.raises(SystemExit, match=f"^{tmp_path}/none: "):
        script.main([f"runs=[{tmp_path}/none]"])
