"""The short version of benchmarks/faults.py, and what it takes for equal."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cmpolicy.training.checkpoint import save_state

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults.py"


@pytest.mark.slow
def test_a_short_version_finds_nothing_wrong(tmp_path: Path) -> None:
    options = ["kills=2", "disks=1", "flips=6", "inputs=100", "kinds=[bc]"]
    where = [f"out={tmp_path}", f"work={tmp_path / 'work'}"]
    command = [sys.executable, str(SCRIPT), *options, *where]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing is wrong\n")
    table = (tmp_path / "faults.md").read_text()
    assert "| kills | bc |" in table
    rows = (tmp_path / "faults.csv").read_text()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert (tmp_path / "faults.csv").read_text() == rows  # nothing is done twice


def test_help_says_what_can_be_given() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "kills=360" in done.stdout


def test_edits(load: Any) -> None:
    fuzz = load("faults_fuzz")
    assert fuzz.edit_bytes(b"abcd", [("flip", 0.0, b"\1")]) == b"`bcd"
    assert fuzz.edit_bytes(b"abcd", [("cut", 0.5, b"x"), ("insert", 0.0, b"x")]) == b"xab"
    assert fuzz.edit_bytes(b"", [("flip", 1.0, b"x"), ("zero", 1.0, b"x")]) == b""
    tree = {"a": [1, {"b": 2}], "c": 3}
    assert fuzz.edit_tree(tree, [([0, 1, 0], False, 9)]) == {"a": [1, {"b": 9}], "c": 3}
    assert fuzz.edit_tree(tree, [([1], True, 9)]) == {"a": [1, {"b": 2}]}
    assert fuzz.edit_tree({}, [([5, 2], True, 9)]) == 9
    assert tree == {"a": [1, {"b": 2}], "c": 3}


def test_one_bit_of_a_checkpoint_or_a_file_too_many_is_a_difference(
    tmp_path: Path, load: Any
) -> None:
    kills = load("faults_kills")
    a, b = tmp_path / "a", tmp_path / "b"
    (a / "checkpoints").mkdir(parents=True)
    save_state(a / "checkpoints/last.safetensors", {"w": torch.ones(2), "seconds": 1.0})
    shutil.copytree(a, b)
    save_state(b / "checkpoints/last.safetensors", {"w": torch.ones(2), "seconds": 2.0})
    assert list(kills.differences(a, b)) == []
    one = torch.ones(2)
    one[1] = torch.nextafter(one[0], one[0] * 2)
    save_state(b / "checkpoints/last.safetensors", {"w": one, "seconds": 1.0})
    assert list(kills.differences(a, b)) == ["checkpoints/last.safetensors: ['/w']"]
    (a / ".left.tmp").touch()
    assert next(kills.differences(a, b)) == "files ['.left.tmp']"
