from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from cmpolicy.datasets import load_hdf5, load_minari
from cmpolicy.datasets.dict_observations import flatten, leaf_keys
from cmpolicy.datasets.minari_source import download_minari
from cmpolicy.errors import InputError

minari = pytest.importorskip("minari")

REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize("with_next", [False, True])
def test_a_file_and_the_minari_dataset_made_from_it_are_identical(
    tmp_path, recorded, write_hdf5, write_minari, with_next
):
    if with_next:  # of terminals, and of timeouts, which D4RL would drop
        ends = recorded["terminals"] | recorded["timeouts"]
        nexts = np.roll(recorded["observations"], -1, axis=0)
        recorded["next_observations"] = np.where(ends[:, None], np.float32(100), nexts)
    from_file = load_hdf5(write_hdf5(tmp_path / "mine.hdf5", recorded))
    write_minari("test/mine-v0", recorded)
    from_minari = load_minari("test/mine-v0")
    for column, expected in zip(from_minari.transitions, from_file.transitions, strict=True):
        assert torch.equal(column, expected)
    assert torch.equal(from_minari.episode_ends, from_file.episode_ends)


@pytest.mark.skipif(not REAL.is_dir(), reason="no recorded data beside the checkout")
def test_a_recorded_file_and_the_minari_dataset_made_from_it_are_identical(write_minari):
    import h5py

    path = REAL / "hopper-medium.hdf5"
    with h5py.File(path) as file:
        arrays = {key: values[()] for key, values in file.items()}
    write_minari("test/hopper-v0", arrays)
    from_file, from_minari = load_hdf5(path), load_minari("test/hopper-v0")
    for column, expected in zip(from_minari.transitions, from_file.transitions, strict=True):
        assert torch.equal(column, expected)


def test_info_is_the_metadatas(recorded, write_minari):
    options = {
        "env": gym.make("Pendulum-v1").spec,
        "eval_env": gym.make("Pendulum-v1", g=5.0).spec,
        "ref_min_score": 1.0,
        "ref_max_score": 3.0,
        "num_episodes_average_score": 1,
    }
    directory = write_minari("mujoco/mine/medium-v0", recorded, **options)
    info = load_minari("mujoco/mine/medium-v0").info
    assert (info.dataset_id, info.source) == ("mujoco/mine/medium-v0", "minari")
    assert (info.env_id, info.path, info.comparable) == ("Pendulum-v1", str(directory), True)
    assert (info.ref_min_score, info.ref_max_score) == (1.0, 3.0)
    assert (info.env_kwargs, info.max_episode_steps) == ({"g": 5.0}, 200)  # for evaluation
    assert load_minari(directory).info.dataset_id == "mujoco/mine/medium-v0"  # by directory


class Goal(gym.Env):
    """Observations as AntMaze and Kitchen have them."""

    observation_space = Dict(
        {
            "observation": Box(-np.inf, np.inf, (3,)),
            "desired_goal": Dict({"kettle": Box(-1, 1, (1,)), "burner": Box(-1, 1, (2,))}),
            "achieved_goal": Box(-1, 1, (2,)),
        }
    )
    action_space = Box(-1, 1, (2,))


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_dictionaries_are_flattened_as_the_environments_are(create_minari, kind):
    """In the space's own order, which Gymnasium sorts for a plain dictionary alone."""
    space = Dict(kind(Goal.observation_space.spaces))
    seen = [space.sample() for _ in range(6)]
    stacked = {
        "observation": np.stack([obs["observation"] for obs in seen]),
        "desired_goal": {
            part: np.stack([obs["desired_goal"][part] for obs in seen])
            for part in ("kettle", "burner")
        },
        "achieved_goal": np.stack([obs["achieved_goal"] for obs in seen]),
    }
    steps = {"actions": np.zeros((5, 2), np.float32), "rewards": np.ones(5)}
    flags = {"terminations": np.zeros(5, bool), "truncations": np.arange(5) == 4}
    create_minari(
        "test/goal-v0",
        [{"observations": stacked, **steps, **flags}],
        observation_space=space,
        action_space=Goal.action_space,
    )
    dataset = load_minari("test/goal-v0")
    env = Goal()
    env.observation_space = space
    wrapper = gym.wrappers.FlattenObservation(env)
    expected = np.float32([wrapper.observation(obs) for obs in seen])
    np.testing.assert_array_equal(dataset.observations, expected[:-1])
    np.testing.assert_array_equal(dataset.next_observations, expected[1:])
    assert dataset.info.observation_keys == leaf_keys(space.spaces)
    np.testing.assert_array_equal(flatten(seen[2], dataset.info.observation_keys), expected[2])


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            {"observation_space": Box(0, 1, (2, 2))},
            r"observations are Box of shape \[2, 2\], expected vectors",
        ),
        ({"action_space": Discrete(3)}, "the actions are Discrete, expected a Box"),
    ],
)
def test_other_spaces_are_refused(recorded, write_minari, space, said):
    if "observation_space" in space:
        recorded["observations"] = recorded["observations"].reshape(-1, 2, 2)
    else:
        recorded["actions"] = np.zeros(60, np.int64)[:, None]
    write_minari("test/odd-v0", recorded, **space)
    with pytest.raises(InputError, match=f"test/odd-v0/data/metadata.json: .*{said}"):
        load_minari("test/odd-v0")


def test_nan_is_refused(recorded, write_minari):
    recorded["actions"][9] = np.nan
    write_minari("test/nan-v0", recorded)
    with pytest.raises(InputError, match=r"test/nan-v0: actions\[\d+\] holds NaN"):
        load_minari("test/nan-v0")


def test_a_missing_and_a_damaged_dataset_are_one_line(recorded, places, write_minari):
    with pytest.raises(InputError, match="no Minari dataset 'test/none-v0' in"):
        load_minari("test/none-v0")
    data = write_minari("test/mine-v0", recorded) / "data"
    main = data / "main_data.hdf5"
    main.write_bytes(main.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cannot be read .*download it again"):
        load_minari("test/mine-v0")
    main.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_minari("test/mine-v0")
    (data / "metadata.json").write_text("{")
    with pytest.raises(InputError, match=r"metadata.json is not JSON"):
        load_minari("test/mine-v0")


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


BOX = {"type": "Box", "dtype": "float32", "shape": [4], "low": [0] * 4, "high": [1] * 4}
WRONG = {
    "no dataset_id": {"dataset_id": 5},
    "observation_space is 5": {"observation_space": 5},
    "action_space is None": {"action_space": None},
    "observation_space is not JSON": {"observation_space": "[" * 100_000},
    "observation_space holds": {"observation_space": "[]"},
    "type is nothing": {"observation_space": "{}"},
    "dtype '1000', not a number": {"observation_space": json.dumps(BOX | {"dtype": "1000"})},
    "dtype 'O', not a number": {"observation_space": json.dumps(BOX | {"dtype": "O"})},
    "additional_wrappers is 5": {"env_spec": '{"id": "A-v0", "additional_wrappers": 5}'},
    "a wrapper holds 5": {"env_spec": '{"id": "A-v0", "additional_wrappers": [5]}'},
    "id is 7": {"env_spec": '{"id": 7}'},
    "kwargs is": {"env_spec": '{"id": "A-v0", "kwargs": "x"}'},
    "actions are Box of shape 5": {"action_space": json.dumps(BOX | {"shape": 5})},
    "ref_min_score is nan": {"ref_min_score": float("nan")},
    "max_episode_steps is 0": {"env_spec": '{"id": "A-v0", "max_episode_steps": 0}'},
    "total_episodes is True": {"total_episodes": True},
    "has no observations": {"total_episodes": 10**9},
    "holds no steps": {"total_episodes": -1},
    "KeyError|format arrow9 needs|cannot be read": {"data_format": "arrow9"},
}


@pytest.mark.parametrize("said", WRONG)
def test_wrong_metadata_are_one_line(recorded, write_minari, said):
    metadata = write_minari("test/mine-v0", recorded) / "data" / "metadata.json"
    change(metadata, **WRONG[said])
    with pytest.raises(InputError, match=said.replace("no dataset_id", "dataset_id is 5")) as error:
        load_minari("test/mine-v0")
    assert "\n" not in str(error.value)


def test_a_specification_of_an_older_gymnasium_is_read_and_an_entry_point_is_not(
    recorded, write_minari
):
    metadata = write_minari("test/mine-v0", recorded) / "data" / "metadata.json"
    spec = {"id": "Old-v0", "entry_point": "os:system", "kwargs": {"command": "touch called"}}
    change(metadata, env_spec=json.dumps(spec | {"autoreset": False, "max_episode_steps": 9}))
    info = load_minari("test/mine-v0").info
    assert (info.env_id, info.env_kwargs, info.max_episode_steps) == (
        *("Old-v0", spec["kwargs"]),
        9,
    )
    assert "os:system" not in repr(dataclasses.asdict(info))


def test_episodes_do_not_lie_in_other_files(recorded, write_minari, tmp_path):
    main = write_minari("test/mine-v0", recorded) / "data" / "main_data.hdf5"
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["rewards"] = np.zeros(7)
    with h5py.File(main, "a") as file:
        del file["episode_0/rewards"]
        file["episode_0/rewards"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "rewards")
    with pytest.raises(InputError, match=r"episode_0/rewards is a link"):
        load_minari("test/mine-v0")


def test_a_remote_that_nobody_answers_for(places, monkeypatch):
    with pytest.raises(InputError, match="cannot be reached"):
        download_minari("mujoco/hopper/medium-v0")
    monkeypatch.setenv("MINARI_REMOTE", "farama")
    with pytest.raises(InputError, match="MINARI_REMOTE is 'farama', expected hf://"):
        download_minari("mujoco/hopper/medium-v0")


@pytest.mark.skipif(not REAL.is_dir(), reason="no recorded data beside the checkout")
def test_d4rls_door_as_minari_keeps_it(monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(REAL / "minari"))
    dataset = load_minari("D4RL/door/human-v2")
    assert (len(dataset), dataset.obs_dim, dataset.action_dim) == (6729, 39, 28)
    assert (dataset.info.env_id, dataset.info.episodes) == ("AdroitHandDoor-v1", 25)
    assert dataset.info.ref_max_score == pytest.approx(2940.578, abs=1e-3)
    joined = ~dataset.episode_ends[:-1]
    assert torch.equal(dataset.next_observations[:-1][joined], dataset.observations[1:][joined])
