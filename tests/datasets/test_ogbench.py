"""OGBench's files: found, fetched, and relabelled by its package."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmpolicy.datasets import n_step, resolve_dataset
from cmpolicy.datasets.ogbench import load_ogbench, ogbench_names, register_ogbench
from cmpolicy.errors import InputError

NAME = "pointmaze-medium-navigate-singletask-task1-v0"
STEPS = 9  # an episode as recorded, of which the last has no successor


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ogbench"
    path.mkdir()
    monkeypatch.setenv("OGBENCH_DATASET_DIR", str(path))
    monkeypatch.setenv("OGBENCH_MIRROR", "http://127.0.0.1:9")
    return path


def write(path: Path, **others: Any) -> Path:
    """Two episodes in the maze; the second passes the goal of its task at steps 2 and 3."""
    import gymnasium

    register_ogbench("this test")
    env: Any = gymnasium.make("pointmaze-medium-singletask-task1-v0")
    env.reset()
    positions = np.zeros((2, STEPS, 2), np.float32)
    positions[1, 2:4] = env.unwrapped.cur_goal_xy
    terminals = np.arange(2 * STEPS) % STEPS == STEPS - 1
    columns = {"observations": positions.reshape(-1, 2), "qpos": positions.reshape(-1, 2)}
    actions = np.linspace(-1, 1, 4 * STEPS, dtype=np.float32).reshape(-1, 2)
    columns |= {"actions": actions, "qvel": np.zeros((2 * STEPS, 2), np.float32)}
    np.savez(path, **columns, terminals=terminals, **others)
    return path


@pytest.mark.parametrize(
    ("name", "file", "env_id"),
    [
        (NAME, "pointmaze-medium-navigate-v0", "pointmaze-medium-singletask-task1-v0"),
        ("scene-play-singletask-v0", "scene-play-v0", "scene-singletask-v0"),
    ],
)
def test_names_of_files_and_environments(name: str, file: str, env_id: str) -> None:
    assert ogbench_names(name) == (file, env_id)


def test_data_without_rewards_are_refused() -> None:
    with pytest.raises(InputError, match="have no rewards"):
        ogbench_names("scene-play-v0")


def test_a_success_masks_the_bootstrap_and_the_episode_goes_on(folder: Path) -> None:
    pytest.importorskip("ogbench", reason="the extra ogbench")
    path = write(folder / "pointmaze-medium-navigate-v0.npz")
    data = resolve_dataset("maze", ogbench_id=NAME)
    n = STEPS - 1
    assert len(data) == 2 * n
    assert data.episode_ends.nonzero().flatten().tolist() == [n - 1, 2 * n - 1]
    success = [n + 2, n + 3]
    assert data.terminals.nonzero().flatten().tolist() == success
    assert data.rewards.tolist() == [0.0 if i in success else -1.0 for i in range(2 * n)]
    assert n_step(data, 5, 1.0).rewards[n : n + 3].tolist() == [-2, -1, 0]
    info = data.info
    assert (info.source, info.path, info.comparable) == ("ogbench", str(path), True)
    assert (info.mean_return, info.ref_min_score, info.ref_max_score) == (0.5, 0.0, 1.0)
    assert resolve_dataset("maze", ogbench_id=NAME, path=path).info == info


def test_pictures_stay_pictures(folder: Path) -> None:
    pytest.importorskip("ogbench", reason="the extra ogbench")
    pictures = np.random.default_rng(0).integers(0, 256, (2 * STEPS, 8, 8, 3), dtype=np.uint8)
    terminals = np.arange(2 * STEPS) % STEPS == STEPS - 1
    columns = {"qpos": np.zeros((2 * STEPS, 15)), "actions": np.zeros((2 * STEPS, 8))}
    path = folder / "visual-antmaze-medium-navigate-v0.npz"
    np.savez(path, observations=pictures, terminals=terminals, **columns)
    data = load_ogbench("visual-antmaze-medium-navigate-singletask-task1-v0", path)
    assert data.info.env_id == "visual-antmaze-medium-singletask-task1-v0"
    assert (data.info.picture_shape, data.obs_dim, len(data)) == ([8, 8, 3], 192, 2 * STEPS - 2)
    batch = data.at(torch.tensor([3, STEPS]))
    assert batch.observations[0].tolist() == pictures[3].ravel().tolist()
    assert batch.next_observations[1].tolist() == pictures[STEPS + 2].ravel().tolist()


def test_data_made_again_say_so(folder: Path) -> None:
    pytest.importorskip("ogbench", reason="the extra ogbench")
    info = load_ogbench(NAME, write(folder / "made.npz", generated_by=np.array("{}"))).info
    assert (info.source, info.comparable) == ("regenerated", False)


def test_what_is_no_such_file_is_said(folder: Path) -> None:
    pytest.importorskip("ogbench", reason="the extra ogbench")
    path = folder / "pointmaze-medium-navigate-v0.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(InputError, match="is not OGBench's pointmaze-medium-navigate"):
        resolve_dataset("maze", ogbench_id=NAME)
    with pytest.raises(InputError, match="OGBench has no task"):
        load_ogbench("pointmaze-tiny-navigate-singletask-task1-v0", write(path))


def test_nothing_anywhere_says_where_it_was_looked_for(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no pointmaze-medium-navigate-v0 in .*cannot be reached"):
        resolve_dataset("maze", ogbench_id=NAME)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that is served, and its address."""
    place = tmp_path / "mirror"
    place.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(place))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield place, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_file_is_fetched(
    folder: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ogbench", reason="the extra ogbench")
    made = write(folder / "made.npz")
    shutil.move(made, mirror[0] / "pointmaze-medium-navigate-v0.npz")
    monkeypatch.setenv("OGBENCH_MIRROR", mirror[1])
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    info = resolve_dataset("maze", ogbench_id=NAME).info
    assert info.path == str(folder / "pointmaze-medium-navigate-v0.npz")
