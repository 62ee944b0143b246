"""The measure of modes: what is a mode, what recalls it, and the script from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch


@pytest.fixture
def bench(load: Any) -> Any:
    threads = torch.get_num_threads()
    yield load("multimodality")
    torch.set_num_threads(threads)


@pytest.fixture
def measures(load: Any) -> Any:
    return load("multimodality_measure")


def places(measures: Any, modes: bool = True) -> Any:
    """Thirty states at which actions are near (1, 1, 0) or near (−1, −1, 0), or all over."""
    rng = np.random.default_rng(0)
    side = rng.random((30, 64)) < 0.5
    around = np.where(side, 0.9, -0.9)[..., None] * [1, 1, 0] + 0.05 * rng.normal(size=(30, 64, 3))
    if not modes:
        around = rng.uniform(-1, 1, size=(30, 64, 3))
    cuts = [measures.best_cut(a) for a in around]
    return measures.Places(
        np.zeros((30, 32, 11)),
        around[:, ::2],
        around[:, 1::2],
        np.stack([side[1::2] for side, _ in cuts]),
        np.full(30, modes),
        np.array([clarity for _, clarity in cuts]),
        np.ones(30),
    )


def test_a_cut_finds_two_modes_and_none_in_a_cloud(measures: Any) -> None:
    assert places(measures).clarity.min() > 0.95
    assert places(measures, modes=False).clarity.max() < measures.EXPLAINED
    gaussian = np.random.default_rng(0).normal(size=(4096, 1)) * [1.0, 1e-6, 1e-6]
    assert measures.best_cut(gaussian)[1] == pytest.approx(2 / np.pi, abs=0.02)  # 64 %
    side, _ = measures.best_cut(np.array([[0.0, 1], [0.1, 1], [5, 1], [5.1, 1], [5.2, 1]]))
    assert {tuple(side[:2]), tuple(side[2:])} in (
        {(True, True), (False, False, False)},
        {(False, False), (True, True, True)},
    )


def test_the_data_itself_recalls_its_modes_and_their_mean_none(measures: Any) -> None:
    here = places(measures)
    same = measures.measure(here.floor, here)["two modes"]
    mean = measures.measure(np.zeros((30, 32, 3)), here)["two modes"]
    one = measures.measure(np.full((30, 32, 3), 0.9) * [1, 1, 0], here)["two modes"]
    assert same["recall"] == same["precision"] == same["both modes"] == 1.0
    assert abs(same["energy"]) < 0.05
    assert mean["recall"] == mean["precision"] == mean["both modes"] == 0.0
    assert mean["energy"] > 1.0
    assert one["precision"] == 1.0
    assert 0.4 < one["recall"] < 0.6
    assert one["both modes"] == 0.0
    assert 0.0 < one["energy"] < mean["energy"]


def test_the_energy_distance_equals_its_definition(measures: Any) -> None:
    rng = np.random.default_rng(1)
    x, here = rng.normal(size=(30, 32, 3)), places(measures)
    expected = []
    for a, b in zip(x, here.recorded, strict=True):
        cross = np.mean([np.linalg.norm(p - q) for p in a for q in b])
        own = [
            np.mean([np.linalg.norm(p - q) for i, p in enumerate(c) for q in c[i + 1 :]])
            for c in (a, b)
        ]
        expected.append(2 * cross - sum(own))
    assert measures.measure(x, here)["all"]["energy"] == pytest.approx(np.mean(expected))


def test_a_gaussian_learns_mean_and_spread(bench: Any) -> None:
    from cmpolicy.datasets.transitions import TransitionDataset

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    actions = np.tanh(rng.normal([0.5, -0.5], [0.1, 0.3], size=(2000, 2)))
    data = TransitionDataset.from_arrays(
        rng.normal(size=(2000, 3)), actions, np.zeros(2000), np.ones(2000, bool)
    )
    for tanh in (False, True):
        actor = bench.GaussianActor(data, tanh)
        optimizer = torch.optim.Adam(actor.parameters(), lr=3e-3)
        for _ in range(100):
            optimizer.zero_grad()
            actor.loss(*data.sample(256)[:2]).backward()
            optimizer.step()
        drawn = actor.sample(np.zeros((2000, 3), np.float32))
        np.testing.assert_allclose(drawn.mean(0), actions.mean(0), atol=0.05)
        np.testing.assert_allclose(drawn.std(0), actions.std(0), atol=0.05)
        assert np.abs(drawn).max() <= 1


def test_the_script_measures_all_and_draws(
    bench: Any, load: Any, write_hopper: Any, tmp_path: Path
) -> None:
    path = write_hopper(tmp_path / "several.hdf5", steps=1200)
    options = [f"data={path}", "quick=true", "updates=5", "states=50", f"out={tmp_path}"]
    with pytest.raises(SystemExit, match="no state has actions of two modes"):
        bench.main(options)
    with h5py.File(path, "a") as file:
        file["actions"][:] = 0.9 * np.sign(file["actions"][:, :1])
    bench.main(options)
    result = json.loads((tmp_path / "multimodality.json").read_text())
    names = list(load("multimodality_figure").COLOURS)
    assert [row["name"] for row in result["rows"]] == names
    assert result["states"] == 50
    table = (tmp_path / "multimodality.md").read_text()
    assert sum(line.startswith("| ") for line in table.splitlines()) == 1 + len(names)
    assert str(tmp_path) not in table + json.dumps(result)
    assert (tmp_path / "multimodality.png").stat().st_size > 20_000
    with pytest.raises(SystemExit, match="data is missing"):
        bench.main([])
    with pytest.raises(SystemExit, match="unknown option 'update'"):
        bench.main(["update=3"])
