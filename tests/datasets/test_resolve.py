from __future__ import annotations

import logging
import time

import numpy as np
import pytest

from cmpolicy.datasets import load_path, resolve_dataset
from cmpolicy.datasets.d4rl_catalogue import D4RL_FILES, D4RLFile
from cmpolicy.errors import InputError

HOPPER = ("hopper-medium", "hopper-medium-v2", "mujoco/hopper/medium-v0")


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="cmpolicy")
    return caplog


def put_d4rl(places, recorded, write_hdf5, name="hopper_medium-v2.hdf5"):
    return write_hdf5(places[0] / name, recorded, env_id="Hopper-v4")


def test_d4rls_file_on_disk_comes_first(places, recorded, write_hdf5, write_minari, log):
    path = put_d4rl(places, recorded, write_hdf5)
    write_minari(HOPPER[2], recorded)
    info = resolve_dataset(*HOPPER).info
    assert (info.dataset_id, info.source, info.path) == (HOPPER[1], "d4rl", str(path))
    assert not info.comparable  # sixty steps are not D4RL's million
    assert "NOT comparable" in log.text
    assert resolve_dataset(*HOPPER, source="minari").info.source == "minari"


def test_a_genuine_file_is_comparable(places, recorded, write_hdf5, monkeypatch):
    path = put_d4rl(places, recorded, write_hdf5, "hopper-medium-v2.hdf5")
    genuine = D4RLFile("gym/hopper_medium-v2.hdf5", path.stat().st_size, "00")
    monkeypatch.setitem(D4RL_FILES, "hopper-medium-v2", genuine)
    assert resolve_dataset(*HOPPER).info.comparable
    info = load_path(path).info
    assert (info.dataset_id, info.source, info.comparable) == (HOPPER[1], "d4rl", True)


def test_kitchen_has_no_timeouts_and_is_cut_at_280_steps(places, recorded, write_hdf5):
    recorded["terminals"][:] = False
    del recorded["timeouts"]
    tiled = {key: np.concatenate([values] * 10) for key, values in recorded.items()}
    name = D4RL_FILES["kitchen-mixed-v0"].name
    assert load_path(write_hdf5(places[0] / name, tiled)).info.comparable
    assert len(resolve_dataset("kitchen-mixed", "kitchen-mixed-v0")) == 597


def test_minari_on_disk_comes_second(recorded, write_minari, log):
    write_minari(HOPPER[2], recorded)
    info = resolve_dataset(*HOPPER).info
    assert (info.dataset_id, info.source, info.comparable) == (HOPPER[2], "minari", True)
    assert "hopper-medium: no hopper-medium-v2 in" in log.text
    assert "hopper-medium: mujoco/hopper/medium-v0 from minari" in log.text


def test_the_sample_comes_last_and_is_loud(places, log):
    begin = time.monotonic()
    info = resolve_dataset(*HOPPER).info
    assert time.monotonic() - begin < 15
    assert (info.source, info.env_id, info.comparable) == ("sample", "Hopper-v4", False)
    assert info.mean_return == pytest.approx(1627.12, rel=1e-4)  # that of the whole recording
    assert info.transitions == 50_689 - 3  # but for the last step before each timeout
    loud = [record for record in log.records if record.levelno == logging.WARNING]
    assert "NOT comparable to published scores" in loud[-1].getMessage()
    assert sum("cannot be reached" in record.getMessage() for record in log.records) == 2


def test_a_network_that_swallows_everything_takes_less_than_15_seconds(places, monkeypatch):
    import socket

    with socket.socket() as silent:  # accepts, and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for variable in ("D4RL_MIRROR", "HF_ENDPOINT"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        assert resolve_dataset(*HOPPER).info.source == "sample"
        assert time.monotonic() - begin < 15


def test_a_broken_file_on_disk_is_never_passed_over(places, recorded, write_hdf5, write_minari):
    path = put_d4rl(places, recorded, write_hdf5)
    write_minari(HOPPER[2], recorded)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(InputError, match="cut short or damaged"):
        resolve_dataset(*HOPPER)


def test_nothing_anywhere_says_what_was_tried(places):
    with pytest.raises(InputError) as error:
        resolve_dataset("pen-human", "pen-human-v1", "D4RL/pen/human-v2")
    said = str(error.value)
    assert said.startswith("no data for pen-human: no pen-human-v1 in ")
    for part in (str(places[0]), str(places[1]), "cannot be reached", "no sample", "dataset.path"):
        assert part in said
    assert "\n" not in said
    with pytest.raises(InputError, match="D4RL has no such task"):
        resolve_dataset("hopper-simple", None, "mujoco/hopper/simple-v0", source="d4rl")
    with pytest.raises(InputError, match="Minari has no such task"):
        resolve_dataset("hopper-random", "hopper-random-v2", None, source="minari")


def test_a_source_can_be_forced(places, recorded, write_hdf5):
    put_d4rl(places, recorded, write_hdf5)
    assert resolve_dataset(*HOPPER, source="sample").info.source == "sample"
    assert resolve_dataset(*HOPPER, source="d4rl").info.source == "d4rl"
    with pytest.raises(InputError, match="no dataset source 'd4lr', expected one of auto, d4rl"):
        resolve_dataset(*HOPPER, source="d4lr")
    with pytest.raises(InputError, match="no sample of it"):
        resolve_dataset("pen-human", "pen-human-v1", source="sample")


def test_the_d4rl_package_fails_in_one_line(places, tmp_path, monkeypatch):
    package = tmp_path / "packages" / "d4rl"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise Exception('no mujoco-py\\nhere')")
    monkeypatch.syspath_prepend(package.parent)  # as on a machine with a new Python
    with pytest.raises(InputError, match=r"d4rl package gives no .*Exception: no mujoco-py here"):
        resolve_dataset(*HOPPER, source="d4rl_package")


def test_a_path_is_taken_instead(tmp_path, recorded, write_hdf5, write_minari):
    mine = write_hdf5(tmp_path / "mine.hdf5", recorded)
    directory = write_minari("test/mine-v0", recorded)
    sources = [
        resolve_dataset(*HOPPER, path=path).info.source
        for path in (mine, str(mine), directory, "test/mine-v0")
    ]
    assert sources == ["file", "file", "minari", "minari"]
    with pytest.raises(InputError, match="no file at"):
        resolve_dataset(*HOPPER, path=tmp_path / "none.hdf5")
    with pytest.raises(InputError, match="is a folder of HDF5 files"):
        resolve_dataset(*HOPPER, path=tmp_path)
    with pytest.raises(InputError, match="cannot be reached"):
        resolve_dataset(*HOPPER, path="mujoco/hopper/medium-v0")
