"""Training states on disk, bit for bit."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cmpolicy.errors import InputError
from cmpolicy.tensor_file import write_tensors
from cmpolicy.training.checkpoint import FORMAT, load_state, save_state


def state() -> dict[str, Any]:
    """One of everything that a learner may put into its state."""
    shared = torch.randn(3, 2)
    return {
        "modules": {"a.weight": shared, "same": shared, "view": shared.T, "step": torch.tensor(7)},
        "optimizers": {
            "policy": {"state": {0: {"step": torch.tensor(3.0)}, 11: {}}, "groups": [{}]}
        },
        "rng": torch.get_rng_state(),
        "types": [
            torch.tensor([True, False]),
            torch.randn(2).half(),
            torch.randn(2).bfloat16(),
            torch.randn(2, dtype=torch.float64),
            torch.tensor([-(2**62)]),
            torch.empty(0, 4),
            torch.tensor(float("nan")),
        ],
        "numbers": [0.1, 1e-320, -0.0, math.inf, 2**60, True, False, None, "ä/b\n", ""],
        "empty": {},
        "none": [],
        "__tensor__": {"__tensor__": "not a tensor"},
        "a/b": {"c": torch.zeros(1)},
        "a": {"b/c": torch.ones(1)},
    }


def assert_same(a: Any, b: Any) -> None:
    """Equal in every bit and type; tuples count as lists."""
    if isinstance(a, Tensor):
        assert isinstance(b, Tensor)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert (
            a.contiguous()
            .view(-1)
            .view(torch.uint8)
            .equal(b.contiguous().view(-1).view(torch.uint8))
        )
    elif isinstance(a, dict):
        assert [(type(k), k) for k in a] == [(type(k), k) for k in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert isinstance(b, list)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert type(a) is type(b)
        assert struct.pack("d", a) == struct.pack("d", b) if isinstance(a, float) else a == b


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = state()
    save_state(tmp_path / "x.safetensors", saved)
    assert_same(saved, load_state(tmp_path / "x.safetensors"))


def test_tuples_come_back_as_lists_and_nan_as_nan(tmp_path: Path) -> None:
    save_state(tmp_path / "x", {"betas": (0.9, (1, torch.zeros(2))), "nan": math.nan})
    loaded = load_state(tmp_path / "x")
    assert loaded["betas"][0] == 0.9
    assert isinstance(loaded["betas"], list)
    assert isinstance(loaded["betas"][1], list)
    assert math.isnan(loaded["nan"])


def test_an_optimiser_goes_on_from_what_was_saved(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.Adam([weight], amsgrad=True)
    weight.grad = torch.ones(3)
    optimizer.step()
    save_state(tmp_path / "x", optimizer.state_dict())
    other = torch.optim.Adam([torch.nn.Parameter(torch.randn(3))], amsgrad=True)
    other.load_state_dict(load_state(tmp_path / "x"))
    assert_same(other.state_dict()["state"], optimizer.state_dict()["state"])


def test_a_saved_state_does_not_follow_its_tensors(tmp_path: Path) -> None:
    tensor = torch.zeros(3)
    save_state(tmp_path / "x", {"a": tensor, "b": tensor})
    tensor += 1
    loaded = load_state(tmp_path / "x")
    loaded["a"] += 5
    assert loaded["b"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", 1j, print])
def test_what_is_neither_a_tensor_nor_json_is_a_programming_error(
    tmp_path: Path, value: object
) -> None:
    with pytest.raises(TypeError, match=r"cannot save .* at /deep/0"):
        save_state(tmp_path / "x", {"deep": [value]})
    assert list(tmp_path.iterdir()) == []


# Damaged files --------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        load_state(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert "no checkpoint at" in refused(path)
    path.write_bytes(b"<html>404</html>")
    assert "damaged" in refused(path)
    write_tensors(path, "cmpolicy.policy.v2", {}, {})
    assert f"has format cmpolicy.policy.v2, expected {FORMAT}" in refused(path)


TREES = [
    None,
    "",
    "{",
    json.dumps(["dict", [["a", {"__tensor__": "elsewhere"}]]]),
    json.dumps(["dict", [["a", {"other": "/a"}]]]),
    json.dumps(["dict", [["a"]]]),
    json.dumps(["dict"]),
    json.dumps(["dict", [[["list"], 1]]]),
    json.dumps(["dict", 5]),
    json.dumps(5),
    "[" * 5_000 + "]" * 5_000,
]


@pytest.mark.parametrize("tree", TREES)
def test_a_damaged_tree_is_refused(tmp_path: Path, tree: str | None) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, FORMAT, {"/a": torch.zeros(2)}, {} if tree is None else {"tree": tree})
    assert "damaged" in refused(path)
