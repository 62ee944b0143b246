"""Policies of runs in one folder: what is taken, what is left out, and that sums are right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from cmpolicy import ConsistencyPolicy

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gather_policies.py"


def make_run(path: Path, **results: Any) -> ConsistencyPolicy:
    torch.manual_seed(results.get("seed", 0))
    policy = ConsistencyPolicy(3, 1, hidden=[4])
    policy.save(path / "policy.safetensors")
    score = {"step": 9, "mean_return": 5.0, "return_standard_error": 1.0, "episodes": 2}
    dataset = {"dataset_id": "x", "source": "file", "comparable": False}
    row = {"task": "hopper", "agent": "bc", "seed": 0, "finished": True, "dataset": dataset}
    row |= {"last": {**score, "normalized_score": 40.25}}
    (path / "results.json").write_text(json.dumps(row | results))
    return policy


def gather(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_finished_runs_are_gathered_with_right_sums(tmp_path: Path) -> None:
    policy = make_run(tmp_path / "runs" / "a", seed=0)
    make_run(tmp_path / "runs" / "b", seed=1)
    make_run(tmp_path / "runs" / "c", seed=2, finished=False)
    done = gather("runs=[runs]", "out=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "left out, not finished: runs/c\n"
    assert done.stdout.splitlines() == ["out/hopper-bc-seed0", "out/hopper-bc-seed1"]
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"],
        cwd=tmp_path / "out", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(checked.stdout.splitlines()) == 7  # two folders of three files, and the index
    again = ConsistencyPolicy.from_pretrained(tmp_path / "out" / "hopper-bc-seed0")
    assert all(torch.equal(x, again.state_dict()[k]) for k, x in policy.state_dict().items())
    index = (tmp_path / "out" / "README.md").read_text()
    assert "| [hopper-bc-seed0](hopper-bc-seed0) | 40.2 | x | no |" in index


def test_nothing_and_two_of_a_name_are_errors(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert "no finished run below none" in gather("runs=[none]", cwd=tmp_path).stderr
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b")
    done = gather(cwd=tmp_path)
    assert done.returncode == 1
    assert "a second run of hopper-bc-seed0" in done.stderr
