"""Seeded mutations of the package, and how many of them the tests notice.

    python benchmarks/coverage_by_test.py tree=TREE out=COVERAGE
    python benchmarks/mutations.py tree=TREE tests=COVERAGE/tests_by_line.json [python=PYTHON]
        [count=100] [seed=0] [trees=[BEFORE,AFTER]] [out=mutations.json] [share=0.03] [run=true]

Each mutation changes one statement, see `mutation_sites.py`, in a copy of `tree`. The number in
each package (folder of cmpolicy, or all files at its top) is in proportion to its lines.
`tests_by_line.json` says which tests execute the changed lines. Of these run the fastest of each
file, then the second fastest of each, and so on up to `share` of the time of the whole suite, until
one fails: then the mutation is killed. So it is when the tests take twice the processor time that
all of them took, and half a minute, or half an hour.

To compare two layouts, give both commands the same `trees`. Mutations are drawn on the first and
must have the same statement in all others, wherever its file lies: with the same text, in a
function of the same name, or nowhere else. One that is not found is listed and replaced by the
next of the draw. `out` keeps results: what is there does not run again. `run=false` only lists.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from command_line import read_options
from coverage_by_test import copy_of, environment_of
from mutation_draw import Drawn, described, draw
from mutation_sites import Statement

DEFAULTS: dict[str, Any] = {
    "tree": ".", "python": sys.executable, "tests": "coverage/tests_by_line.json", "count": 100,
    "seed": 0, "trees": [], "out": "mutations.json", "share": 0.03, "run": True,
}  # fmt: skip
WALL_SECONDS = 1800  # for tests that wait for ever, and take no processor time
PYTEST = ("-x", "-q", "-p", "no:cacheprovider")


def main(arguments: list[str]) -> None:
    options = read_options(arguments, DEFAULTS)
    tree = Path(options["tree"]).resolve()
    trees = [Path(path).resolve() for path in options["trees"]] or [tree]
    drawn = draw(trees, options["count"], options["seed"])
    position = trees.index(tree)
    if not options["run"]:
        for number, one in enumerate(drawn, 1):
            print(number, described(one, position))
        return
    out = Path(options["out"])
    known: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    covered = json.loads(Path(options["tests"]).read_text())
    with copy_of(tree) as copy, Tests(copy, options["python"]) as tests:
        if tests.run(["--collect-only", *covered["seconds"]], WALL_SECONDS)[0] != "survived":
            sys.exit(f"{tree} does not have the tests that {options['tests']} names")
        for number, one in enumerate(drawn, 1):
            if one.key not in known:
                known[one.key] = result_of(one, position, copy, tests, covered, options["share"])
                out.write_text(json.dumps(known, indent=1) + "\n")
            result = known[one.key]
            print(
                number, described(one, position), "|", result["outcome"], result["by"], flush=True
            )
    outcomes = Counter(known[one.key]["outcome"] for one in drawn)
    print(f"{tree}: {outcomes['killed']} of {len(drawn)} killed; {dict(outcomes)}")


def result_of(
    one: Drawn, position: int, copy: Path, tests: Tests, covered: dict[str, Any], share: float
) -> dict[str, Any]:
    """Mutate the copy, run the tests of the line, and put the file back."""
    statement = one.statements[position]
    change = statement.mutations[one.number]
    chosen, left_out = tests_of(statement, copy, covered, share)
    path = copy / statement.file
    source, start = path.read_bytes(), time.perf_counter()
    cached = Path(importlib.util.cache_from_source(str(path)))
    outcome, by = "no test", ""
    try:
        path.write_bytes(source[: change.start] + change.after.encode() + source[change.end :])
        cached.unlink(missing_ok=True)
        if chosen:
            limit = 30 + int(2 * sum(covered["seconds"][test] for test in chosen))
            outcome, by = tests.run(chosen, limit)
    finally:
        path.write_bytes(source)
        cached.unlink(missing_ok=True)
    return {
        "mutation": described(one, position),
        "outcome": outcome,
        "by": by,
        "tests": len(chosen),
        "left_out": left_out,
        "seconds": round(time.perf_counter() - start, 1),
    }


def tests_of(
    statement: Statement, copy: Path, covered: dict[str, Any], share: float
) -> tuple[list[str], int]:
    """The tests to run, file by file, and how many more there are.

    A statement outside functions runs when its file is imported. Its tests are those of the lines
    that use what it assigns, or those of its file.
    """
    lines = covered["lines"]
    tests = tests_between(lines.get(statement.file, {}), *statement.lines)
    if statement.names:
        tests |= {t for file in lines for t in tests_using(copy, file, statement.names, lines)}
    if not tests and statement.names:
        tests = tests_between(lines.get(statement.file, {}), 1, sys.maxsize)
    duration = covered["seconds"]
    usable = sorted(tests - set(covered["failed"]), key=lambda test: (duration[test], test))
    rank, preceding = {}, Counter[str]()
    for test in usable:
        rank[test] = preceding[file_of(test)]
        preceding[file_of(test)] += 1
    left, by_file = share * sum(duration.values()), defaultdict[str, list[str]](list)
    for test in sorted(usable, key=lambda test: (rank[test], duration[test], test)):
        left -= duration[test]
        if left < 0 and by_file:
            break
        by_file[file_of(test)].append(test)
    files = sorted(by_file.values(), key=lambda tests: sum(duration[test] for test in tests))
    chosen = [test for tests in files for test in tests]
    return chosen, len(usable) - len(chosen)


def file_of(test: str) -> str:
    """The file of a test."""
    return test.partition("::")[0]


def tests_between(by_line: dict[str, list[str]], first: int, last: int) -> set[str]:
    """The tests that execute one of the lines."""
    return {t for line, tests in by_line.items() if first <= int(line) <= last for t in tests}


def tests_using(
    copy: Path, file: str, names: frozenset[str], lines: dict[str, dict[str, list[str]]]
) -> set[str]:
    """The tests that execute a line of `file` which reads one of the names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((copy / file).read_bytes())):
        name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", None)
        if name in names and isinstance(node, ast.Name | ast.Attribute):
            found.update(lines[file].get(str(node.lineno), []))
    return found


class Tests:
    """Runs tests of a copy of a tree, see `pytest_forks.py`."""

    def __init__(self, copy: Path, python: str) -> None:
        self.given, self.said = copy.parent / "tests", copy.parent / "said"
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name("pytest_forks.py"))],
            cwd=copy,
            env={**environment_of(copy), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Tests:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # the end of its input ends it

    def run(self, tests: list[str], seconds: int) -> tuple[str, str]:
        """``killed`` or ``survived``; and the test that failed, or what else was said.

        Each process may take so many seconds of the processor.
        """
        self.given.write_text("\n".join(tests) + "\n")
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = [[*PYTEST, f"@{self.given}"], str(self.said), seconds]
        print(json.dumps(line), file=self.process.stdin)
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        timer = threading.Timer(WALL_SECONDS, os.killpg, (pid, signal.SIGKILL))
        timer.start()
        status = int(self.process.stdout.readline())
        timer.cancel()
        if status == 0:
            return "survived", ""
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", self.said.read_text(), re.MULTILINE)
        if status in (-signal.SIGKILL, -signal.SIGXCPU):
            return "killed", "no end"
        return "killed", failed[1] if failed else f"pytest ended with {status}"


if __name__ == "__main__":
    main(sys.argv[1:])
