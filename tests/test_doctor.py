"""The doctor: what it says of a machine that works, and of one where something is missing."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cmpolicy import doctor
from cmpolicy.doctor import FAILS, LACKS, OK, Finding


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: Any) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_runs_here(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "cmpolicy.doctor"],
        capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("python -m cmpolicy.train env=hopper-medium would run here\n")
    begun = [line.split()[:2] for line in done.stdout.splitlines()]
    for name in ("python", "packages", "device", "environment", "d4rl", "minari", "runs"):
        assert [OK, name] in begun
    assert [LACKS, "data"] in begun  # only the sample
    assert "FAILS" not in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"d4rl", "minari"}


def test_without_torch_it_says_what_mends_it(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: cannot open')")
    done = subprocess.run(
        [sys.executable, "-m", "cmpolicy.doctor"],
        capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAILS  imports     torch does not import (libtorch.so: cannot open)" in done.stdout
    assert "mend: pip install -e ." in done.stdout
    assert "would NOT run here" in done.stdout


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["numpy>=99", "nothing-of-that-name>=1", "h5py", "scipy; extra == 'toys'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needed)
    fine, wrong = doctor.packages()
    assert fine.status == OK
    assert "h5py" in fine.text
    assert wrong.status == FAILS
    assert "(needs numpy>=99), nothing-of-that-name is missing" in wrong.text


def test_extras_name_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["nothing-there>=1; extra == 'export'", 'numpy>=1; extra == "toys"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needed)
    found = {finding.text: finding for finding in doctor.extras()}
    lacking = found["export: nothing-there is not installed"]
    assert (lacking.status, lacking.mend) == (LACKS, "pip install -e '.[export]'")
    [complete] = [finding for finding in found.values() if finding.status == OK]
    assert "toys" in complete.text
    assert "export" not in complete.text


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    [finding] = doctor.compiler()
    assert finding.status == LACKS
    assert "apt-get install g++" in finding.mend


def test_a_driver_without_a_gpu_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert [finding.status for finding in doctor.device()] == [OK, LACKS]


@pytest.mark.parametrize(
    ("chosen", "codes", "status", "mend"),
    [
        ("", {"egl": 0, "glfw": 1}, LACKS, "export MUJOCO_GL=egl"),
        ("egl", {"egl": 0, "glfw": 1}, OK, ""),
        ("osmesa", {"egl": 1, "osmesa": 1}, LACKS, "apt-get install libegl1"),
    ],
)
def test_renderers(
    monkeypatch: pytest.MonkeyPatch, chosen: str, codes: Any, status: str, mend: str
) -> None:
    monkeypatch.setenv("MUJOCO_GL", chosen)
    started = {
        name: subprocess.Popen([sys.executable, "-S", "-c", f"raise SystemExit({code})"], text=True)
        for name, code in codes.items()
    }
    [finding] = doctor.renderers(started)
    assert finding.status == status
    assert finding.mend.startswith(mend)


def test_a_check_that_falls_ill_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def ill() -> Any:
        raise RuntimeError("two\nlines")

    for name in ("python", "packages", "imports", "device", "compiler", "environment", "data"):
        monkeypatch.setattr(doctor, name, ill)
    monkeypatch.setattr(doctor, "start_renderers", dict)
    found = list(doctor.examine())
    assert [f.status for f in found[:7]] == [FAILS] * 7
    assert found[0] == Finding("python", FAILS, "RuntimeError: two lines", "pip install -e .")


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    [finding] = doctor.runs()
    assert (finding.status, finding.mend) == (FAILS, "give output_dir=DIRECTORY")


def test_it_takes_no_arguments(command: Any) -> None:
    assert command(doctor, "now") == (2, "error: the doctor takes no arguments\n")
    assert command(doctor, "--help")[0] == 0
