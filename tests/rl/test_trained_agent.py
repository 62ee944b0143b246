"""What results.json says is held against what a run writes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from cmpolicy.errors import InputError
from cmpolicy.rl.trained_agent import read_record
from cmpolicy.training.run_directory import RunDirectory

RESULTS: dict[str, Any] = {
    "environment": {"id": "Hopper-v5", "kwargs": {}, "reference_returns": [0.0, 1.0]},
    "spaces": {"obs_dim": 3, "action_low": [-1.0], "action_high": [1.0]},
    "dataset": {"comparable": False},
}


def read(path: Path, results: Any) -> Any:
    (path / "results.json").write_text(json.dumps(results))
    return read_record(RunDirectory(path))


def test_what_a_run_writes_is_read(tmp_path: Path) -> None:
    record = read(tmp_path, RESULTS)
    assert (record.env.id, record.env.from_data, record.references) == ("Hopper-v5", True, (0, 1))
    assert read(tmp_path, {**RESULTS, "environment": None}).env is None


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        *(("environment", key, "many") for key in ("parallel", "timeout", "max_episode_steps")),
        *(("environment", "timeout", value) for value in (-1, float("inf"), True)),
        ("environment", "parallel", 0),
        ("environment", "kwargs", [1]),
        ("environment", "wrappers", [{"name": 5}]),
        ("environment", "reference_returns", ["a", "b"]),
        ("environment", "reference_returns", [1.0]),
        ("environment", "observation_keys", [5]),
        ("environment", "spec", {}),
        ("environment", "id", 5),
        *(("spaces", "obs_dim", value) for value in (0, "3", 1e30)),
        *(("spaces", "action_low", value) for value in ("low", [float("nan")], [None], 1)),
    ],
)
def test_anything_else_is_one_line(tmp_path: Path, part: str, key: str, value: Any) -> None:
    results = copy.deepcopy(RESULTS)
    results[part][key] = value
    with pytest.raises(InputError, match="does not describe an agent's run") as error:
        read(tmp_path, results)
    assert "\n" not in str(error.value)
