"""What README and docs/ print works: Python runs, commands compose, links and extras exist."""

from __future__ import annotations

import importlib
import logging
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmpolicy import data
from cmpolicy.cli.verbs import parse

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LONGEST = 120  # lines of the README


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every `python -m cmpolicy.…` that a page prints, without its comment."""
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.split("\n")]
    lines += [command for _, command, _ in seed_rows()]
    return sorted({line.split(" #")[0].strip() for line in lines if "-m cmpolicy." in line})


def seed_rows() -> list[list[str]]:
    """What the starting documents do, the command, the test: rows of docs/seeds.md."""
    lines = (ROOT / "docs" / "seeds.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"
    ]
    return [
        [what, command.strip("`"), test.strip("`")]
        for what, command, test in rows
        if what != "what" and set(what) != {"-"}
    ]


def anchors(page: Path) -> set[str]:
    """The fragments that link to a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.stem)
def test_python_runs_as_printed(page: Path, tmp_path: Path) -> None:
    """The blocks of a page as one file, in an empty directory, without a warning."""
    (tmp_path / "printed.py").write_text("\n".join(blocks(page, "python")))
    command = [sys.executable, "-W", "error", "printed.py"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    if page == README:
        assert (tmp_path / "policy.safetensors").is_file()


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave logging and the environment as they were before a command ran in this process."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    loggers = [logging.getLogger(), logging.getLogger("cmpolicy")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate


@pytest.mark.parametrize("command", commands())
def test_commands_compose(
    command: str, quiet: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every key, group and choice exists; of a sweep the first choice is composed."""
    module, *arguments = shlex.split(command.partition("-m ")[2])
    if module == "cmpolicy.data":
        assert data.VERBS[arguments[0]] is parse(module, data.VERBS, arguments)[0]
        return
    if module == "cmpolicy.doctor":  # runs in its own test
        assert not arguments
        return
    if "-m" in arguments:
        arguments.remove("-m")
        arguments = [re.sub(r"^([\w.]+=[^,\[]*),.*", r"\1", argument) for argument in arguments]
    monkeypatch.setattr(sys, "argv", [module, *arguments, "--cfg", "job"])
    try:
        importlib.import_module(module).main()
    except SystemExit as left:
        pytest.fail(f"{command}: exit code {left.code}, {capsys.readouterr().err}")
    assert capsys.readouterr().out


def test_what_the_starting_documents_do_has_a_command_and_a_test() -> None:
    rows = seed_rows()
    assert len(rows) >= 45
    for what, command, test in rows:
        assert what
        assert command
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), test
        script = re.match(r"python (benchmarks/\w+\.py)", command)
        assert (
            command.startswith(("python -m cmpolicy.", "pip install -e "))
            or (script and (ROOT / script[1]).is_file())
        ), command  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if fragment:
            assert fragment in anchors(linked), target


def test_extras_exist_and_nothing_is_installed_from_an_index() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in PAGES:
        text = page.read_text()
        assert not re.search(r"pip install\s+['\"]?cmpolicy", text), page
        for names in re.findall(r"-e '?\.\[([\w,]+)\]", text):
            assert set(names.split(",")) <= set(known), page
