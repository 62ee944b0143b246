"""A bar in a terminal, a line an evaluation elsewhere."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from cmpolicy.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, show: bool = True) -> list[str]:
    """The lines of the log of a run of 40 updates that is evaluated twice."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("cmpolicy")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "stderr", stderr)
    with Progress(40, 10, show) as progress:
        progress.update(10)
        progress.evaluated(12.345)
        progress.update(20)
        progress.evaluated(50.0)
    return lines


def test_without_a_terminal_an_evaluation_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    assert shown(monkeypatch, stderr) == [
        "step 20 (50%): score 12.35, 0:00:00 left",
        "step 40 (100%): score 50.00, 0:00:00 left",
    ]
    assert stderr.getvalue() == ""


def test_in_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    assert shown(monkeypatch, stderr) == []
    assert "score 50.0" in stderr.getvalue()
    assert "40/40" in stderr.getvalue()


def test_runs_that_share_a_terminal_write_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "bars", False)
    stderr = Terminal()
    assert len(shown(monkeypatch, stderr)) == 2
    assert stderr.getvalue() == ""


@pytest.mark.parametrize("stderr", [io.StringIO(), Terminal()])
def test_it_may_be_silent(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO) -> None:
    assert shown(monkeypatch, stderr, show=False) == []
    assert stderr.getvalue() == ""
