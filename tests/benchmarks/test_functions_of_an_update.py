"""The functions of an update: a real run, in order, and the limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "functions_of_an_update.py"


def test_functions_in_order_and_the_limit() -> None:
    command = [sys.executable, str(SCRIPT), "agent=bc", "most_functions=5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    functions = [line.split() for line in lines if line.lstrip()[:1].isdigit()]
    assert functions[0][1:] == ["agents/bc.py", "ConsistencyBC.update"]
    assert [int(number) for number, *_ in functions] == list(range(1, len(functions) + 1))
    batch = lines.index("after `update`: the training loop, the next batch")
    assert any("ConditionalMLP.forward" in line for line in lines[:batch])
    assert any("TransitionDataset.sample" in line for line in lines[batch:])
    files = len({file for _, file, _ in functions})
    assert lines[-1] == f"with loop and batch: {len(functions)} functions in {files} files"
