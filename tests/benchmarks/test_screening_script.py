"""The simulator of screening steps as Gymnasium does; the script from end to end."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch


@pytest.mark.parametrize(
    ("name", "env_id"),
    [("hopper", "Hopper-v4"), ("halfcheetah", "HalfCheetah-v4"), ("walker2d", "Walker2d-v4"),
     ("walker2d", "Walker2d-v5"), ("hopper", "Hopper-v5")],
)  # fmt: skip
def test_the_simulator_is_gymnasiums_bit_for_bit(
    load: Any, name: str, env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mujoco.batch")
    monkeypatch.chdir(tmp_path)  # MuJoCo logs there what it warns of
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of v4
        envs = [gymnasium.make(env_id).unwrapped for _ in range(3)]
    many = load("screening/simulator").BatchEnvironments(name, 3, 2, env_id[-2:], seed=0)
    first = np.stack([env.reset(seed=7 + i)[0] for i, env in enumerate(envs)])
    assert np.array_equal(many.reset([7, 8, 9]), first.astype(np.float32))
    rng, done, returns, fallen = np.random.default_rng(0), np.zeros(3, bool), np.zeros(3), 0
    for _ in range(60):
        actions = rng.uniform(-1, 1, (3, many.action_dim)).astype(np.float32)
        observations, rewards = many.step(actions)
        for i in np.flatnonzero(~done):
            expected, reward, done[i], _, _ = envs[i].step(actions[i])
            assert np.array_equal(observations[i], expected.astype(np.float32))
            assert rewards[i] == reward
            returns[i] += reward
        fallen += int(done.all())
        assert np.array_equal(many.alive, ~done)
        assert np.array_equal(many.returns, returns)
    assert bool(fallen) == (name != "halfcheetah")
    many.reset()
    many.lengths[:] = 999
    many.step(actions)
    assert not many.alive.any()


def test_the_script_trains_evaluates_and_writes_rows(
    load: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mujoco.batch")
    precision = torch.get_float32_matmul_precision()
    screen, variants = load("screening/screen"), load("screening/variants")
    for groups, _, _ in screen.STAGES.values():
        for _, settings in groups():
            assert all(variants.Variant("set", **setting) for setting in settings.values())
    monkeypatch.setattr(load("screening/simulator"), "MAX_STEPS", 5)
    groups = [
        (variants.Shape(batch=8), {"plain": {}, "weighted": {"return_temperature": 0.3}}),
        (variants.Shape(batch=8, warm_up=1.0, bins=11), {"MC, then TD": {}}),
    ]
    sets = ("hopper-medium", "hopper-expert")
    rules = ["actor:sample", "clone:mode", "clone:mode-0.1", "clone:mode~0.1"]
    monkeypatch.setitem(screen.STAGES, "variants", (lambda: groups, sets, rules))
    table = tmp_path / "rows.csv"
    options = [f"data={folder}", f"out={table}", "updates=4", "seeds=1", "episodes=2"]
    screen.main([*options, "device=cpu"])
    torch.set_float32_matmul_precision(precision)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    cells = {(row["set"], row["name"], row["rule"]) for row in rows}
    assert len(cells) == len(rows) == len(sets) * 3 * len(rules)
    assert all(np.isfinite([float(row["score"]), float(row["error"])]).all() for row in rows)
    assert {row["bins"] for row in rows} == {"0", "11"}
    with pytest.raises(SystemExit, match="stage= one of critics, variants, sets"):
        screen.main(["stage=critics"])
