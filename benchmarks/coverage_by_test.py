"""Which tests execute which line of the package, and how many lines any test executes.

    python benchmarks/coverage_by_test.py [tree=.] [python=PYTHON] [workers=2] [out=coverage]
        [tests=[tests/agents,…]]

The whole test suite runs once, in a copy of `tree`, under `coverage` (which is to be installed)
with the test in progress as the context; processes that a test starts are measured as well.
Written to `out`: `coverage.txt` (percent, by file) and `tests_by_line.json`: the tests with their
seconds, those that failed, and for each file the tests of each line. Python runs a module's own
lines when it is imported, which belongs to no test.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import coverage
import pytest
from command_line import read_options

DEFAULTS = {"tree": ".", "python": sys.executable, "workers": 2, "out": "coverage", "tests": []}
LEFT_OUT = (".git", ".venv", ".*_cache", "__pycache__", "runs", "outputs", "multirun", "*.egg-info")
SETTINGS = """
[run]
source = {tree}/cmpolicy
data_file = {out}/data
parallel = true
context = ${{PYTEST_CURRENT_TEST-}}
disable_warnings = no-data-collected, module-not-imported, module-not-measured, couldnt-parse
"""
IN_SUBPROCESSES = "import coverage\ncoverage.process_startup()\n"


def main(arguments: list[str]) -> None:
    options = read_options(arguments, DEFAULTS)
    out = Path(options["out"]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with copy_of(Path(options["tree"])) as tree, tempfile.TemporaryDirectory() as data:
        measure(tree, Path(data), options)
        figures, text = combine(tree, Path(data))
    (out / "tests_by_line.json").write_text(json.dumps(figures))
    (out / "coverage.txt").write_text(text)
    print(text.splitlines()[-1])
    print(f"{len(figures['seconds'])} tests, failed: {', '.join(figures['failed']) or 'none'}")


@contextmanager
def copy_of(tree: Path) -> Iterator[Path]:
    """A copy of `tree` for as long as the block; a folder `shared` beside it stays beside it."""
    tree = tree.resolve()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve() / "tree"
        shutil.copytree(tree, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        if (shared := tree.parent / "shared").exists():
            (copy.parent / "shared").symlink_to(shared.resolve())
        yield copy


def environment_of(copy: Path, *others: Path) -> dict[str, str]:
    """For processes that are to import the package of `copy`, wherever they start."""
    found_first = os.pathsep.join(str(path) for path in (copy, *others))
    ours = {name: v for name, v in os.environ.items() if not name.startswith(("PYTEST_", "COV"))}
    return {**ours, "PYTHONPATH": found_first, "OMP_NUM_THREADS": "1"}


def measure(tree: Path, out: Path, options: dict[str, Any]) -> None:
    """Run the tests of `tree`; coverage's files and `reports.json` are written to `out`."""
    settings = out / "settings"
    settings.write_text(SETTINGS.format(tree=tree, out=out))
    (out / "sitecustomize.py").write_text(IN_SUBPROCESSES)
    shutil.copy(__file__, out / "coverage_plugin.py")
    shutil.copy(Path(__file__).with_name("command_line.py"), out)
    subprocess.run(
        [
            *(options["python"], "-m", "pytest", "-q", "-n", str(options["workers"])),
            *("-p", "coverage_plugin", "-p", "no:cacheprovider", *options["tests"]),
        ],
        env={**environment_of(tree, out), "COVERAGE_SETTINGS": str(settings)},
        cwd=tree,
        check=False,  # failed tests are in the report
    )


def combine(tree: Path, out: Path) -> tuple[dict[str, Any], str]:
    """`tests_by_line.json` and the report by file."""
    measured = coverage.Coverage(config_file=str(out / "settings"))
    measured.combine([str(out)])
    files: dict[str, dict[int, list[str]]] = {}
    for file in sorted(measured.get_data().measured_files()):
        by_line = measured.get_data().contexts_by_lineno(file)
        names = {
            line: sorted({name_of(c) for c in tests} - {""}) for line, tests in by_line.items()
        }
        files[str(Path(file).relative_to(tree))] = {line: n for line, n in names.items() if n}
    report = out / "report"
    with report.open("w") as stream:
        measured.report(file=stream, precision=2, show_missing=True)
    text = report.read_text().replace(f"{tree}{os.sep}", "")
    return {**json.loads((out / "reports.json").read_text()), "lines": files}, text


def name_of(context: str) -> str:
    """The test in a context: that of a subprocess has the phase behind the name."""
    return re.sub(r" \((setup|call|teardown)\)$", "", context)


# As a plugin of pytest --------------------------------------------------------------------------


class Plugin:
    """Measures a process of pytest; the first one, which runs no tests itself, writes reports."""

    def __init__(self, settings: str, first: bool) -> None:
        self.settings, self.first = settings, first
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.failed: set[str] = set()
        self.coverage = coverage.Coverage(config_file=settings, data_suffix=True)
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.coverage.switch_context(item.nodeid)
        os.environ["COVERAGE_PROCESS_START"] = self.settings
        result = yield
        del os.environ["COVERAGE_PROCESS_START"]
        self.coverage.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        self.coverage.save()
        if self.first:
            figures = {"seconds": self.seconds, "failed": sorted(self.failed)}
            path = Path(self.settings).with_name("reports.json")
            path.write_text(json.dumps(figures))


def pytest_configure(config: pytest.Config) -> None:
    """Begin to measure."""
    first = not hasattr(config, "workerinput")
    config.pluginmanager.register(Plugin(os.environ["COVERAGE_SETTINGS"], first))


if __name__ == "__main__":
    main(sys.argv[1:])
