"""The tasks in `configs/env` name datasets, rewards and references that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cmpolicy.datasets import REWARDS, reference_scores
from cmpolicy.datasets.d4rl_catalogue import D4RL_FILES

FILES = sorted((Path(__file__).parents[2] / "configs" / "env").glob("*.yaml"))
KEYS = ["name", "id", "d4rl_id", "d4rl_env_id", "minari_id", "reward", "ding_jin"]
PUBLISHED = {"eta", "max_grad_norm", "lr", "max_q_backup", "q_norm", "sampling_steps"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_task(path):
    task = yaml.safe_load(path.read_text())
    assert [key for key in task if key != "max_episode_steps"] == KEYS
    assert task.get("max_episode_steps") == (100 if path.stem.startswith("pen") else None)
    assert task["name"] == path.stem
    assert task["d4rl_id"] is None or task["d4rl_id"] in D4RL_FILES
    assert (task["d4rl_id"] is None) == (task["d4rl_env_id"] is None)
    assert task["reward"] in REWARDS
    assert set(task["ding_jin"]) == PUBLISHED
    assert 0 < float(task["ding_jin"]["lr"]) <= 1e-3
    if path.stem != "custom":
        references = reference_scores(task["name"])
        assert references is not None
        for known in (task["d4rl_env_id"], task["minari_id"]):
            assert known is None or reference_scores(known) == references


def test_every_d4rl_dataset_is_a_task():
    tasks = [yaml.safe_load(path.read_text()) for path in FILES]
    assert {task["d4rl_id"] for task in tasks} - {None} == set(D4RL_FILES)
