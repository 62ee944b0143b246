"""The command that chooses a checkpoint without a simulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import cmpolicy.select as select
import cmpolicy.train as train
from cmpolicy.policy.consistency_policy import ConsistencyPolicy

Command = Callable[..., tuple[int, str]]
FEW = ("updates=4", "transitions=20")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("select") / "run"


@pytest.fixture
def trained(run: Path, command: Command, tiny: tuple[str, ...]) -> Path:
    if not run.exists():
        every = ("eval.every=2", "accelerate=off", "agent=bc", f"run_dir={run}")
        assert command(train, *tiny, *every)[0] == 0
    return run


def test_every_evaluation_keeps_the_policy_that_it_evaluated(trained: Path) -> None:
    kept = {path.stem: path for path in (trained / "policies").iterdir()}
    assert kept.keys() == {"2", "4", "6"}
    last = ConsistencyPolicy.load(trained / "policy.safetensors")
    same = {
        step: all(
            a.equal(b)
            for a, b in zip(
                ConsistencyPolicy.load(path).parameters(), last.parameters(), strict=True
            )
        )
        for step, path in kept.items()
    }
    assert same == {"2": False, "4": False, "6": True}


def test_the_policy_of_highest_value_is_chosen(
    trained: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(select, f"run={trained}", "policies=2", *FEW)[0] == 0
    selection = json.loads((trained / "selection.json").read_text())
    rows = {row["step"]: row for row in selection["policies"]}
    assert rows.keys() == {4, 6}
    assert selection["chosen"] == max(rows, key=lambda step: rows[step]["value"])
    scores = [row["score"] for row in rows.values()]
    assert selection["regret"] == max(scores) - rows[selection["chosen"]]["score"]


def test_other_data_can_be_given(trained: Path, command: Command) -> None:
    code, error = command(select, f"run={trained}", "held_out=nowhere.hdf5", *FEW)
    assert code == 2
    assert "nowhere.hdf5" in error


def test_a_run_without_policies_is_refused(trained: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "config.yaml").write_text((trained / "config.yaml").read_text())
    code, error = command(select, f"run={tmp_path}", *FEW)
    assert code == 2
    assert "holds no policy" in error
