"""Policies in folders and on the hub, where a folder stands for the hub."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml

from cmpolicy import ConsistencyPolicy, InputError

RESULTS = {
    "task": "hopper-medium",
    "agent": "bc",
    "seed": 3,
    "dataset": {
        "dataset_id": "hopper-medium-sample", "source": "sample", "path": "/home/me/secret.hdf5",
        "comparable": False, "transitions": 50686, "mean_normalized_score": 50.6,
    },
    "environment": {"id": "Hopper-v4"},
    "last": {"step": 6, "mean_return": 1234.5, "return_standard_error": 6.7,
             "normalized_score": 38.6, "episodes": 20},
    "best": {"step": 4, "mean_return": 1300.0, "return_standard_error": 5.0,
             "normalized_score": None, "episodes": 20},
    "machine": "a machine", "date": "2026-11-27", "versions": {"torch": "2.13"},
}  # fmt: skip


@pytest.fixture
def policy() -> ConsistencyPolicy:
    torch.manual_seed(0)
    return ConsistencyPolicy(4, 2, action_low=[-1, -2], action_high=[1, 2], hidden=[8])


def front_matter(folder: Path) -> Any:
    _, matter, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(matter), text


def test_a_folder_gives_back_the_policy(policy: ConsistencyPolicy, tmp_path: Path) -> None:
    folder = policy.save_pretrained(tmp_path / "a" / "mine")
    again = ConsistencyPolicy.from_pretrained(folder)
    obs = np.ones(4)
    assert np.array_equal(again.act(obs, mode_of=8), policy.act(obs, mode_of=8))
    assert {path.name for path in folder.iterdir()} == {"policy.safetensors", "README.md"}
    matter, text = front_matter(folder)
    assert matter["library_name"] == "cmpolicy"
    assert "model-index" not in matter
    assert "between [-1.0, -2.0] and [1.0, 2.0]" in text
    assert "Scores" not in text


def test_the_card_says_what_the_results_say(policy: ConsistencyPolicy, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.json").write_text(json.dumps(RESULTS))
    folder = policy.save_pretrained(tmp_path / "mine", results=run, name="me/mine")
    matter, text = front_matter(folder)
    [entry] = matter["model-index"]
    assert entry["name"] == "bc on hopper-medium"
    [result] = entry["results"]
    assert result["dataset"]["type"] == "Hopper-v4"
    assert result["metrics"][0]["value"] == "1234.5 +/- 6.7"
    assert "scores on it do **not** compare with published ones" in text
    assert "| last (update 6) | 38.6 | 1234.5 ± 6.7 | 20 |" in text
    assert "| best (update 4) | – | 1300.0 ± 5.0 | 20 |" in text
    assert "from_pretrained('me/mine')" in text
    assert all("secret" not in path.read_text(errors="ignore") for path in folder.iterdir())
    assert json.loads((folder / "results.json").read_text())["agent"] == "bc"


def test_the_code_of_the_card_runs(
    policy: ConsistencyPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    policy.save_pretrained("mine", results=RESULTS)
    _, text = front_matter(tmp_path / "mine")
    code = text.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["action"].shape == (2,)


def test_push_and_fetch_with_a_hub_that_is_a_folder(
    policy: ConsistencyPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, asked = tmp_path / "hub", []

    class Api:
        def __init__(self, token: Any) -> None:
            asked.append(token)

        def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> str:
            assert exist_ok
            (hub / repo_id).mkdir(parents=True)
            return f"https://hub/{repo_id}"

        def upload_folder(self, repo_id: str, folder_path: Path, **options: Any) -> None:
            assert options == {"revision": None, "commit_message": "Upload policy"}
            for file in folder_path.iterdir():
                file.rename(hub / repo_id / file.name)

    def fetch(repo_id: str, filename: str, **options: Any) -> str:
        assert filename == "policy.safetensors"  # nothing else is fetched
        return str(hub / repo_id / filename)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert policy.push_to_hub("me/mine", results=RESULTS, token="t") == "https://hub/me/mine"
    assert asked == ["t"]
    assert {path.name for path in (hub / "me" / "mine").iterdir()} == {
        "policy.safetensors", "README.md", "results.json"
    }  # fmt: skip
    again = ConsistencyPolicy.from_pretrained("me/mine")
    assert torch.equal(again.network.layers[0].weight, policy.network.layers[0].weight)


def test_what_is_refused_is_said_in_one_line(
    policy: ConsistencyPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise OSError("401\nnot\nyou")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(InputError, match=r"the hub gives no .* of me/mine \(401 not you\)$"):
        ConsistencyPolicy.from_pretrained("me/mine")
    with pytest.raises(InputError, match="is no folder, and no repository's id"):
        ConsistencyPolicy.from_pretrained("nothing here")
    with pytest.raises(InputError, match="no policy at"):
        ConsistencyPolicy.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"did not take me/mine .401 not you.; log in"):
        policy.push_to_hub("me/mine")
    with pytest.raises(InputError, match="expected OWNER/NAME"):
        policy.push_to_hub("mine")
    with pytest.raises(InputError, match="missing or damaged"):
        policy.save_pretrained(tmp_path / "new", results=tmp_path)
    assert not (tmp_path / "new").exists()


def test_without_the_extra_it_is_named(
    policy: ConsistencyPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (policy.push_to_hub, ConsistencyPolicy.from_pretrained):
        with pytest.raises(InputError, match=r"pip install -e '.\[hub\]'"):
            call("me/mine")
