"""The toys' benchmark in its quick form."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "toys.py"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_rows_come_once_and_make_a_table_and_a_picture(tmp_path: Path) -> None:
    options = ("quick=true", "toys=[two_gmm]", "losses=[ict,cd]", "seeds=1", f"out={tmp_path}")
    first = run(*options)
    assert first.returncode == 0, first.stderr
    rows = list(csv.DictReader((tmp_path / "toys.csv").open(newline="")))
    assert [(r["toy"], r["loss"], r["seed"]) for r in rows] == [
        ("two_gmm", "ict", "0"),
        ("two_gmm", "cd", "0"),
    ]
    assert all(0 < float(r["1 step w1"]) < 10 for r in rows)
    assert math.isnan(float(rows[0]["teacher, Heun w1"]))
    assert float(rows[1]["teacher, Heun w1"]) > 0
    table = (tmp_path / "toys.md").read_text()
    assert f"| ict | 1 | {float(rows[0]['1 step w1']):.3f} |" in table
    assert (tmp_path / "toys.png").read_bytes().startswith(b"\x89PNG")
    again = run(*options)
    assert again.returncode == 0
    assert "loss=ict" not in again.stdout
    assert list(csv.DictReader((tmp_path / "toys.csv").open(newline=""))) == rows


def test_an_unknown_option_is_refused() -> None:
    result = run("colour=red")
    assert result.returncode != 0
    assert "unknown option 'colour'" in result.stderr
