"""Import times: ratios of what was measured, and a command that fails."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest


def test_ratios(load: Any, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script = load("import_time")
    work = {"import torch": ["-c", "0"], "more": ["-c", "sum(range(20_000_000))"]}
    monkeypatch.setattr(script, "COMMANDS", work)
    script.main(["runs=3"])
    base, more = capsys.readouterr().out.splitlines()
    assert re.match(r"import torch: [\d.]+ s, 1\.00 × import torch \(wall [\d.]+ s, 1\.00 ×", base)
    found = re.match(r"more: [\d.]+ s, ([\d.]+) × import torch", more)
    assert found
    assert float(found[1]) > 2
    monkeypatch.setitem(work, "wrong", ["-c", "raise SystemExit(3)"])
    with pytest.raises(subprocess.CalledProcessError):
        script.main(["runs=1"])
