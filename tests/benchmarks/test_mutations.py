"""Mutations of a small package: which tests run, what they notice, and statements that moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

CODE = '''
"""A package."""

LIMIT = 3


def clipped(value: int, *, strict: bool = False) -> int:
    """At most LIMIT."""
    if strict:
        raise ValueError(f"{value + 1} is too large")
    return min(value, LIMIT)


def untested(value: int) -> int:
    return value + 1


def same(value: int) -> int:
    return value
'''
TESTS = """
import subprocess, sys

from cmpolicy.a.first import clipped, same

def test_clipped():
    assert clipped(5) == 3

def test_negative():
    assert clipped(-1) == -1

def test_same_in_another_process():
    subprocess.run([sys.executable, "-c", "import cmpolicy.a.first as m; m.same(4)"], check=True)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with one module and its tests."""
    files = {
        "cmpolicy/__init__.py": "",
        "cmpolicy/a/__init__.py": "",
        "cmpolicy/a/first.py": CODE,
        "tests/test_first.py": TESTS,
    }
    for file, text in files.items():
        path = tmp_path / "before" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "before"


@pytest.mark.slow
def test_what_tests_notice(load: Any, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tree.parent / "coverage"
    load("coverage_by_test").main([f"tree={tree}", f"out={out}", "workers=1"])
    covered = json.loads((out / "tests_by_line.json").read_text())
    assert covered["failed"] == []
    by_line = covered["lines"]["cmpolicy/a/first.py"]
    named = {line.strip(): str(n) for n, line in enumerate(CODE.splitlines(), 1)}
    both = ["tests/test_first.py::test_clipped", "tests/test_first.py::test_negative"]
    assert by_line[named["return min(value, LIMIT)"]] == both
    assert by_line[named["return value"]] == ["tests/test_first.py::test_same_in_another_process"]
    assert named["return value + 1"] not in by_line

    options = [f"tree={tree}", f"tests={out}/tests_by_line.json", f"out={tree.parent}/found.json"]
    script = load("mutations")
    drawn = script.draw([tree], 100, 0)  # every statement
    assert not any("too large" in one.key for one in drawn)
    script.main([*options, "count=100", "share=1"])
    outcomes = {
        one.statements[0].text: json.loads((tree.parent / "found.json").read_text())[one.key]
        for one in drawn
    }
    assert outcomes["return min(value, LIMIT)"]["outcome"] == "killed"
    assert outcomes["return min(value, LIMIT)"]["tests"] == 2
    assert outcomes["LIMIT = 3"]["by"] == "tests/test_first.py::test_clipped"
    assert outcomes["return value + 1"]["outcome"] == "no test"
    assert outcomes["return value"]["outcome"] == "survived"
    assert (tree / "cmpolicy/a/first.py").read_text() == CODE
    assert "killed; {" in capsys.readouterr().out


def test_a_statement_is_found_where_its_file_moved(load: Any, tree: Path) -> None:
    after = tree.parent / "after"
    shutil.copytree(tree, after)
    moved = after / "cmpolicy/b/second.py"
    moved.parent.mkdir()
    (after / "cmpolicy/a/first.py").rename(moved)
    moved.write_text(CODE.replace("return value + 1", "return 1 + value"))
    script = load("mutations")
    alone, both = (script.draw(trees, 100, 0) for trees in ([tree], [tree, after]))
    assert {one.key for one in alone} - {one.key for one in both} == {
        one.key for one in alone if one.statements[0].text == "return value + 1"
    }
    assert {one.statements[1].file for one in both} == {"cmpolicy/b/second.py"}
