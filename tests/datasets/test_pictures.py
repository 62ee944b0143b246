"""Pictures in archives: kept as uint8, mapped where they are large, seen as batches of floats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict

from cmpolicy.datasets import load_path, n_step
from cmpolicy.datasets.windows import windowed
from cmpolicy.errors import InputError
from cmpolicy.rl.environments import Environment
from cmpolicy.training_run import train

N, SHAPE = 12, (8, 8, 3)


def write(path: Path, **others: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.integers(0, 256, size=(N, *SHAPE), dtype=np.uint8),
        "actions": rng.uniform(-1, 1, size=(N, 2)).astype(np.float32),
        "terminals": np.arange(N) % 6 == 5,
        **others,
    }
    np.savez(path, **columns)
    return columns


@pytest.mark.parametrize("large", [0, 1 << 30])
def test_batches_hold_the_pictures_of_steps_and_of_what_follows(
    large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmpolicy.datasets.pictures.LARGE", large)
    columns = write(tmp_path / "demos.npz")
    data = load_path(tmp_path / "demos.npz")
    assert (tmp_path / "demos.observations.npy").exists() == (large == 0)
    assert (len(data), data.obs_dim, data.info.picture_shape) == (N, 192, [*SHAPE])
    assert data.frames is not None
    assert data.frames.dtype == torch.uint8
    flat = torch.from_numpy(columns["observations"]).flatten(1).float()
    batch = data.at(torch.tensor([0, 7]))
    assert torch.equal(batch.observations, flat[[0, 7]])
    assert torch.equal(batch.next_observations, flat[[1, 8]])
    wide = n_step(windowed(data, 2, 3), 3, 0.9).at(torch.tensor([2, 6]))
    assert torch.equal(wide.observations, flat[torch.tensor([[1, 2], [6, 6]])].flatten(1))
    assert torch.equal(wide.next_observations[0], flat[4:6].flatten())
    assert data.measured.shape == (N, 192)


def test_vectors_stand_beside_pictures(tmp_path: Path) -> None:
    columns = write(tmp_path / "demos.npz", states=np.ones((N, 2)))
    data = load_path(tmp_path / "demos.npz")
    assert data.obs_dim == 194
    seen = data.at(torch.tensor([3])).observations[0]
    assert seen.tolist() == [*columns["observations"][3].ravel(), 1, 1]


def test_what_is_missing_or_wrong_is_said(tmp_path: Path) -> None:
    write(tmp_path / "float.npz", observations=np.ones((N, 8, 8, 3)))
    with pytest.raises(InputError, match="of uint8"):
        load_path(tmp_path / "float.npz")
    np.savez(tmp_path / "none.npz", observations=np.zeros((N, *SHAPE), np.uint8))
    with pytest.raises(InputError, match="expected actions"):
        load_path(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(InputError, match="no archive of pictures"):
        load_path(tmp_path / "text.npz")


class Seeing(gymnasium.Env[Any, Any]):
    """Five steps; a picture, or a dictionary of a vector and a picture."""

    action_space = Box(-1, 1, (2,), np.float32)

    def __init__(self, vector: bool = False) -> None:
        self.picture, self.vector = Box(0, 255, SHAPE, np.uint8), vector
        both = {"state": Box(-1, 1, (2,), np.float32), "image": self.picture}
        self.observation_space = Dict(both) if vector else self.picture

    def observe(self) -> Any:
        picture = np.full(SHAPE, 7, np.uint8)
        return {"state": np.ones(2, np.float32), "image": picture} if self.vector else picture

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.t = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.observe(), 1.0, False, self.t == 5, {}


@pytest.mark.parametrize("vector", [False, True])
def test_a_clone_trains_from_pictures_and_acts_on_them(
    vector: bool, compose: Any, tiny: Any, tmp_path: Path
) -> None:
    gymnasium.register("Seeing-v0", Seeing, max_episode_steps=9)
    try:
        write(tmp_path / "demos.npz", **({"states": np.ones((N, 2))} if vector else {}))
        made = Environment("Seeing-v0", {"vector": vector}).make()
        first = made.reset(seed=0)[0]
        assert first.tolist() == [7.0] * 192 + [1.0] * 2 * vector
        options = [option for option in tiny if not option.startswith(("env=", "dataset."))]
        options += ["agent=bc", f"dataset.path={tmp_path / 'demos.npz'}", "env.id=Seeing-v0"]
        options += [f"env.kwargs={{vector: {vector}}}", "agent.policy.history=2"]
        options += ["agent.policy.horizon=2", f"run_dir={tmp_path / 'run'}"]
        train(compose(*options), [])
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert results["last"]["mean_return"] == 5.0
        seeds = [*options[:-1], "+agent.policy.encoder_options.channels=[4]", "seeds=2"]
        train(compose(*seeds, f"run_dir={tmp_path / 'seeds'}"), [])
        with pytest.raises(InputError, match="choose agent=bc"):
            train(compose(*options, "agent=ac", f"run_dir={tmp_path / 'ac'}"), [])
    finally:
        del gymnasium.registry["Seeing-v0"]
