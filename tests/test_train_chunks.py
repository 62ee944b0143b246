"""Chunks and histories from the command line to what a run leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cmpolicy.train
from cmpolicy.evaluate import EvaluateConfig, evaluate
from cmpolicy.train import train
from cmpolicy.training.checkpoint import load_state

WINDOW = ("agent.policy.horizon=4", "agent.policy.execute=2", "agent.policy.history=2")
EVERY = ("eval.every=3", "checkpoint_every=3")


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_state(run / "checkpoints" / "last.safetensors")["learner"]["modules"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("agent", ["bc", "ac"])
def test_a_run_resumes_bit_for_bit_and_is_evaluated_again(
    agent: str, compose: Any, tiny: Any, tmp_path: Path, killed_after: Any
) -> None:
    options = [*tiny, *WINDOW, *EVERY, f"agent={agent}"]
    options += ["agent.critic_hidden=[8]"] if agent == "ac" else []
    train(compose(*options, f"run_dir={tmp_path / 'whole'}"), [])
    with killed_after(3):
        train(compose(*options, f"run_dir={tmp_path / 'parts'}"), [])
    train(compose(f"resume={tmp_path / 'parts'}"), [])
    whole, parts = (weights_of(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert whole["policy.bound.low"].shape == (12,)

    evaluate(EvaluateConfig(run=str(tmp_path / "whole"), episodes=1), [])
    [row] = map(json.loads, (tmp_path / "whole" / "evaluations.jsonl").read_text().splitlines())
    assert row["mean_length"] > 1


def test_stacked_seeds_train_by_chunks(compose: Any, tiny: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(compose(*tiny, *WINDOW, *EVERY, "agent=bc", "seeds=2", f"run_dir={run}"), [])
    assert len(json.loads((run / "results.json").read_text())["last"]["by_seed"]) == 2


def test_training_in_the_environment_by_chunks_is_refused(
    tiny: Any, tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    run = f"run_dir={tmp_path / 'run'}"
    code, error = command(cmpolicy.train, *tiny, *WINDOW, "online.steps=5", run)
    assert code == 2
    assert "online.steps=5" in error.splitlines()[-1]
    assert "train on data alone" in error.splitlines()[-1]
