"""The comparison of weights: what counts as equal, and which tensors are paired."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cmpolicy.training.checkpoint import save_state


def test_tensors_are_read_in_the_order_of_the_checkpoint(tmp_path: Path, load: Any) -> None:
    (tmp_path / "checkpoints").mkdir()
    state = {"b": [torch.ones(2), {"a": torch.zeros(3)}], "a": torch.arange(4), "step": 3}
    save_state(tmp_path / "checkpoints" / "last.safetensors", state)
    assert [len(t) for t in load("same_weights").read_tensors(tmp_path).values()] == [2, 3, 4]


def test_bits_types_shapes_and_missing_tensors_count(load: Any) -> None:
    compare = load("same_weights").compare
    a, b = torch.ones(2), torch.zeros(3)
    assert compare({"x": a, "y": b}, {"x": a.clone(), "y": b.clone()}) == ("name", 0)
    assert compare({"x": a, "y": b}, {"u": a, "v": b}) == ("order", 0)
    assert compare({"x": a, "y": b}, {"v": b, "u": a}) == ("order", 2)
    assert compare({"x": a}, {"x": torch.nextafter(a, b[:2])}) == ("name", 1)
    assert compare({"x": a}, {"x": a.double()}) == ("name", 1)
    assert compare({"y": b}, {"y": -b}) == ("name", 1)  # −0 is not 0
    assert compare({"x": a, "y": b}, {"x": a}) == ("order", 1)


def test_one_installation_is_not_compared_with_itself(load: Any) -> None:
    script = load("same_weights")
    with pytest.raises(SystemExit, match="one installation"):
        script.main([f"before={sys.executable}"])
    assert len(script.RUNS) == 7
