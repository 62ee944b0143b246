"""Files of policies: what they keep, and what is refused in one line."""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from cmpolicy.errors import InputError
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.policy.policy_file import write_policy

NAN = math.nan


def made(**overrides: Any) -> ConsistencyPolicy:
    torch.manual_seed(0)
    policy = ConsistencyPolicy(3, 2, [-2.0, 0.0], [1.0, 1e6], **{"hidden": [8, 8], **overrides})
    policy.fit_normalizers(5 + torch.randn(50, 3), torch.rand(50, 2))
    return policy


def arguments(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["arguments"])
    return found


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"bound": "squash", "loss": "ct", "parameterization": "ding_jin", "steps": 3},
        {"bound": "clamp", "loss": "sct", "parameterization": "trigflow", "normalize_obs": False},
        {"levels": [50.0, 3.0], "loss_options": {"s1": 40}, "embedding": "sinusoidal"},
    ],
    ids=str,
)
def test_a_loaded_policy_is_bit_for_bit_the_same(tmp_path: Path, overrides: Any) -> None:
    policy = made(**overrides)
    policy.save(tmp_path / "policy.safetensors")
    loaded = ConsistencyPolicy.load(str(tmp_path / "policy.safetensors"))
    observations, actions = torch.randn(6, 3), torch.rand(6, 2)

    def results(p: ConsistencyPolicy) -> list[Any]:
        g = torch.Generator().manual_seed(4)
        return [
            p.act(observations.numpy(), generator=g).tolist(),
            p.act(observations.numpy(), mode_of=8).tolist(),
            p.loss(observations, actions, 0.5, generator=g).item(),
        ]

    assert results(loaded) == results(policy)
    assert loaded.config == policy.config
    assert loaded.levels == policy.levels
    states = zip(policy.state_dict().items(), loaded.state_dict().items(), strict=True)
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in states)
    loaded.fit_normalizers(observations, 1e5 * actions)  # the environment's bounds are kept
    assert loaded.bound.high[1] > 1e5


def test_dimensions_of_numpy_are_numbers(tmp_path: Path) -> None:
    numbers: Any = {"steps": np.int64(2), "sigma_max": np.float32(5), "hidden": list(np.full(2, 8))}
    policy = ConsistencyPolicy(np.prod((3,)), np.int32(2), np.float32(-1), np.ones(2), **numbers)
    policy.save(tmp_path / "p")
    assert ConsistencyPolicy.load(tmp_path / "p").obs_dim == 3


def test_saving_makes_the_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    for _ in range(2):
        made().save(tmp_path / "new" / "folder" / "p")
    assert [f.name for f in (tmp_path / "new" / "folder").iterdir()] == ["p"]


def test_a_save_that_fails_leaves_the_old_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made().save(tmp_path / "p")
    before = (tmp_path / "p").read_bytes()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            made(hidden=[7]).save(tmp_path / "p")
    assert (tmp_path / "p").read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["p"]


# What is refused ---------------------------------------------------------------------------------


def foreign(path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)


def other_version(path: Path) -> None:
    safetensors.torch.save_file(made().state_dict(), path, {"format": "cmpolicy.policy.v2"})


def no_arguments(path: Path) -> None:
    safetensors.torch.save_file(made().state_dict(), path, {"format": "cmpolicy.policy.v4"})


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_text("this is not a policy\n" * 20), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: torch.save(made().state_dict(), path), "damaged"),
        (lambda path: path.mkdir(), "no policy in .*; give a run's directory, one of its"),
        (lambda path: None, "no policy at"),
        (foreign, "has format unknown, expected cmpolicy.policy.v4"),
        (other_version, "has format cmpolicy.policy.v2, expected cmpolicy.policy.v4"),
        (no_arguments, "its checksum is wrong"),
    ],
)
def test_a_file_that_is_no_policy_is_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], None], reason: str
) -> None:
    write(tmp_path / "file")
    with pytest.raises(InputError, match=reason) as caught:
        ConsistencyPolicy.load(tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        *({"action_dim": value} for value in (3, 1e30, 10**30, None, NAN)),
        *({"obs_dim": value} for value in (4, -3, "3", [3])),
        *({"hidden": value} for value in ([8], [8, 8, 8], [8, 10**12], 8, None, [[8], [8]])),
        *({"steps": value} for value in (0, 1_000_000, 1e30, "1")),
        *({"sigma_max": value} for value in (1e308, NAN, "10")),
        *({"levels": value} for value in ([1e30], list(range(10**5, 0, -1)), "80", [None])),
        *({"loss_options": value} for value in ({"p_std": 0}, {"s1": 10**30}, {"s0": 0}, 3)),
        *({"action_low": value} for value in ([5.0, 5.0], [NAN] * 2, [0.0] * 9, "x", {})),
        *({"mode_of": value} for value in (0, 10**9, NAN, "32", None)),
        {"bound": "nonsense"},
        {"a_key_of_the_future": 1},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_values_that_take_all_time_or_memory_are_refused(tmp_path: Path, changes: Any) -> None:
    """A file whose checksum is right, with a configuration that nobody saved."""
    policy, path = made(), tmp_path / "p"
    policy.save(path)
    write_policy(path, policy.state_dict(), {**arguments(path), **changes})
    with pytest.raises(InputError, match="damaged or not a policy") as caught:
        ConsistencyPolicy.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    made().save(tmp_path / "p")
    content = (tmp_path / "p").read_bytes()
    (tmp_path / "p").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match="damaged"):
        ConsistencyPolicy.load(tmp_path / "p")


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    made().save(tmp_path / "p")
    content = (tmp_path / "p").read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(200):
        flipped = bytearray(content)
        flipped[generator.integers(len(content))] ^= 1 << int(generator.integers(8))
        (tmp_path / "p").write_bytes(flipped)
        with pytest.raises(InputError):
            ConsistencyPolicy.load(tmp_path / "p")


class Trap:
    """Unpickling it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


def test_loading_executes_no_pickled_code(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "b")
    for name in ("a", "b"):
        with pytest.raises(InputError):
            ConsistencyPolicy.load(tmp_path / name)
    assert not (tmp_path / "sprung").exists()
