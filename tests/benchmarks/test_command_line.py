"""`python benchmarks/SCRIPT.py --help` prints what the script is for, and does nothing else."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = [p for p in sorted(BENCHMARKS.glob("*.py")) if '__name__ == "__main__"' in p.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help_prints_the_docstring(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    before = set(sys.modules)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    for name in set(sys.modules) - before:  # another test imports them anew
        if "benchmarks" in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
    assert not left.value.code
    document = ast.get_docstring(ast.parse(script.read_text()))
    assert document is not None
    assert capsys.readouterr().out.strip() == document.strip()
