"""The files in examples/ run as they are, and do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 60  # lines


def load(name: str) -> ModuleType:
    """examples/<name>.py as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_policy_trained_on_arrays_drives_up_the_mountain(tmp_path: Path) -> None:
    """Saved and loaded again it also does so in eight environments at once."""
    path = tmp_path / "policy.safetensors"
    assert load("train_on_arrays").main(path) > 90  # who never arrives has at most 0

    returns = load("act_in_gymnasium").main(path, "MountainCarContinuous-v0")

    assert returns.shape == (8,)
    assert returns.min() > 90


def test_an_own_agent_acts_more_smoothly_the_more_it_is_asked_to() -> None:
    example = load("own_agent")
    plain, smooth = (example.main(smoothness, updates=100) for smoothness in (0.0, 1.0))
    assert 0 < smooth < plain / 2


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.slow
@pytest.mark.launchers
def test_ten_trials_of_optuna_halve_the_distance_of_a_toy(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    first, best = load("tune_with_optuna").main([f"output_dir={tmp_path}", "progress=false"])
    assert best < first / 2
    assert len(list(tmp_path.glob("three_gmm/*/results.json"))) == 10
