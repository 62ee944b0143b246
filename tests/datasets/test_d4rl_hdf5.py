from __future__ import annotations

import re
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cmpolicy.datasets import TransitionDataset, load_hdf5
from cmpolicy.errors import InputError

REAL = Path(__file__).parents[3] / "shared" / "data"


def test_a_file_gives_what_its_arrays_give(tmp_path, recorded, write_hdf5):
    path = write_hdf5(tmp_path / "mine.hdf5", recorded, env_id="Hopper-v5")
    dataset = load_hdf5(path)
    for column, expected in zip(
        dataset.transitions, TransitionDataset.from_arrays(**recorded).transitions, strict=True
    ):
        assert torch.equal(column, expected)
    info = dataset.info
    assert (info.dataset_id, info.source, info.path) == ("mine", "file", str(path))
    assert (info.env_id, info.comparable) == ("Hopper-v5", False)


def test_groups_and_strange_keys_are_left_alone(tmp_path, recorded, write_hdf5):
    path = write_hdf5(tmp_path / "mine.hdf5", recorded, env_id=np.bytes_(b"Hopper-v5"))
    with h5py.File(path, "a") as file:
        file["infos/qpos"] = np.zeros((2, 3))
        file["metadata/algorithm"] = "SAC"
    assert load_hdf5(path).info.env_id == "Hopper-v5"


def test_next_observations_are_read(tmp_path, recorded, write_hdf5):
    recorded["next_observations"] = recorded["observations"] + 100
    dataset = load_hdf5(write_hdf5(tmp_path / "mine.hdf5", recorded))
    assert torch.equal(dataset.next_observations, dataset.observations + 100)


@pytest.mark.parametrize(
    ("columns", "limits", "env_id", "kept", "logged"),
    [
        ((), {}, None, 599, "has no timeouts: every row is taken .* env.max_episode_steps=N"),
        ((), {"max_episode_steps": 10, "registered_limit": 20}, "Pendulum-v1", 540, "every 10"),
        ((), {"registered_limit": 20}, "Pendulum-v1", 570, "every 20 steps, .* of env.id"),
        ((), {}, "Pendulum-v1", 597, "every 200 steps, the limit of Pendulum-v1"),
        (("timeouts",), {"max_episode_steps": 10}, None, 560, "end where its timeouts say"),
        (("next_observations",), {"max_episode_steps": 10}, None, 600, "its next_observations say"),
    ],
)
def test_where_episodes_are_cut_is_decided_once_and_logged(
    tmp_path, recorded, write_hdf5, caplog, columns, limits, env_id, kept, logged
):
    caplog.set_level("INFO", logger="cmpolicy")
    recorded["next_observations"] = recorded["observations"] + 1
    recorded["terminals"][:] = False
    for column in {"timeouts", "next_observations"} - set(columns):
        del recorded[column]
    tiled = {key: np.concatenate([values] * 10) for key, values in recorded.items()}
    attributes = {"env_id": env_id} if env_id else {}
    path = write_hdf5(tmp_path / "mine.hdf5", tiled, **attributes)
    assert len(load_hdf5(path, **limits)) == kept
    [record] = caplog.records
    assert re.search(logged, record.getMessage())


def test_no_file_and_no_hdf5(tmp_path):
    with pytest.raises(InputError, match=r"no file at .*missing\.hdf5"):
        load_hdf5(tmp_path / "missing.hdf5")
    (tmp_path / "page.hdf5").write_text("<html>404</html>")
    with pytest.raises(InputError, match="is not an HDF5 file"):
        load_hdf5(tmp_path / "page.hdf5")
    (tmp_path / "empty.hdf5").touch()
    with pytest.raises(InputError, match="is not an HDF5 file"):
        load_hdf5(tmp_path / "empty.hdf5")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 0.999])
def test_a_truncated_file_is_one_line(tmp_path, recorded, write_hdf5, share):
    path = write_hdf5(tmp_path / "cut.hdf5", recorded)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="cut short or damaged") as error:
        load_hdf5(path)
    assert "\n" not in str(error.value)


def test_a_damaged_chunk_is_one_line(tmp_path, recorded, write_hdf5):
    path = write_hdf5(tmp_path / "bad.hdf5", recorded)
    with h5py.File(path, "a") as file:
        del file["rewards"]
        rewards = file.create_dataset("rewards", data=recorded["rewards"], compression="gzip")
        offset = rewards.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(InputError, match="cut short or damaged"):
        load_hdf5(path)


def test_a_missing_key_says_what_is_there(tmp_path, recorded, write_hdf5):
    del recorded["rewards"], recorded["terminals"]
    path = write_hdf5(tmp_path / "mine.hdf5", recorded)
    with pytest.raises(
        InputError, match=r"has no rewards, terminals, expected .* holds actions, observations"
    ):
        load_hdf5(path)
    with h5py.File(path, "a") as file:
        file["rewards/mean"] = 1.0  # a group is no array
        file["terminals"] = np.zeros(60, bool)
    with pytest.raises(InputError, match="rewards is a group of mean, expected one array"):
        load_hdf5(path)


@pytest.mark.parametrize("way", ["external link", "soft link", "external storage", "virtual"])
def test_nothing_outside_the_file_is_read(tmp_path, recorded, write_hdf5, way):
    path, other = tmp_path / "mine.hdf5", tmp_path / "other.hdf5"
    write_hdf5(other, {"rewards": recorded.pop("rewards")})
    with h5py.File(write_hdf5(path, recorded), "a") as file:
        if way == "external link":
            file["rewards"] = h5py.ExternalLink(str(other), "rewards")
        elif way == "soft link":
            file["rewards"] = h5py.SoftLink("/observations")
        elif way == "external storage":
            stored = [(str(other), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("rewards", shape=(60,), dtype="f4", external=stored)
        else:
            layout = h5py.VirtualLayout((60,), "f4")
            layout[:] = h5py.VirtualSource(str(other), "rewards", (60,))
            file.create_virtual_dataset("rewards", layout)
    with pytest.raises(InputError, match=r"mine\.hdf5: /rewards (is a link|takes its values)"):
        load_hdf5(path)


def test_declared_sizes_are_checked_before_memory_is_taken(tmp_path, recorded, write_hdf5):
    path = write_hdf5(tmp_path / "huge.hdf5", {})
    for rows, said in ((10**9, r"declares arrays of \d+\.\d GB in a file of \d+ kB"), (60, None)):
        with h5py.File(path, "w") as file:
            for key, values in recorded.items():
                shape = (rows, *values.shape[1:])
                file.create_dataset(key, shape, values.dtype, chunks=True)  # never written
        if said:
            with pytest.raises(InputError, match=said):
                load_hdf5(path)
        else:
            assert len(load_hdf5(path)) == 59
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file.create_dataset("rewards", (10**9,), "i1", chunks=True)
    with pytest.raises(InputError, match=r"differ in length: .*rewards \(1000000000,\)"):
        load_hdf5(path)


def test_one_transition_is_no_data(tmp_path, recorded, write_hdf5):
    two = {key: values[:2] for key, values in recorded.items()}
    with pytest.raises(InputError, match=r"mine\.hdf5: 1 of 2 rows are transitions.*at least 2"):
        load_hdf5(write_hdf5(tmp_path / "mine.hdf5", two))


def test_wrong_arrays_name_the_file(tmp_path, recorded, write_hdf5):
    recorded["rewards"][9] = np.nan
    path = write_hdf5(tmp_path / "mine.hdf5", recorded)
    with pytest.raises(InputError, match=r"mine\.hdf5: rewards\[9\] holds NaN"):
        load_hdf5(path)


def test_a_hundred_thousand_steps_load_in_well_under_a_second(tmp_path, write_hdf5):
    steps = 100_000
    path = write_hdf5(
        tmp_path / "big.hdf5",
        {
            "observations": np.zeros((steps, 17), np.float32),
            "actions": np.zeros((steps, 6), np.float32),
            "rewards": np.zeros(steps, np.float32),
            "terminals": np.zeros(steps, bool),
            "timeouts": np.arange(steps) % 1000 == 999,
        },
    )
    begin = time.perf_counter()
    assert len(load_hdf5(path)) == steps - 100
    assert time.perf_counter() - begin < 2.0  # a loop over the rows takes longer


@pytest.mark.skipif(not REAL.is_dir(), reason="no recorded data beside the checkout")
@pytest.mark.parametrize("name", ["hopper-medium", "walker2d-mixed", "pen-expert"])
def test_recorded_files(name):
    path = REAL / f"{name}.hdf5"
    dataset = load_hdf5(path)
    with h5py.File(path) as file:
        dropped = np.asarray(file["timeouts"]).sum()
        assert len(dataset) == len(file["rewards"]) - dropped  # the last row is always one
        assert dataset.info.mean_return == pytest.approx(file.attrs["mean_return"], rel=0.005)
        assert dataset.terminals.sum() == np.asarray(file["terminals"]).sum()
    # consecutive transitions of an episode join up
    joined = ~dataset.episode_ends[:-1]
    assert torch.equal(dataset.next_observations[:-1][joined], dataset.observations[1:][joined])
