"""Tensors on disk: whole or not at all, and every damaged bit is noticed."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from cmpolicy.errors import InputError
from cmpolicy.tensor_file import read_tensors, write_tensors

FORMAT = "test.v1"


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_tensors(path, FORMAT)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    write_tensors(path, FORMAT, {"a": torch.arange(50.0)}, {"text": '"sha256":"' + "1" * 64})
    return path


def test_tensors_and_text_come_back(path: Path) -> None:
    tensors, text = read_tensors(path, FORMAT)
    assert torch.equal(tensors["a"], torch.arange(50.0))
    assert text["text"] == '"sha256":"' + "1" * 64
    assert safetensors.torch.load_file(path).keys() == {"a"}  # anybody's reader takes it


def test_every_flipped_bit_is_noticed(path: Path) -> None:
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(300):
        at, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        refused(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_part_of_a_file_is_refused(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "damaged" in refused(path)


@pytest.mark.parametrize("content", [b"<html>404</html>", b"\x00" * 64, b"\xff" * 64])
def test_any_other_content_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "damaged" in refused(path)


@pytest.mark.parametrize("metadata", [None, {"format": "test.v2"}, {"format": FORMAT}])
def test_files_of_others_are_refused(path: Path, metadata: dict[str, str] | None) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, metadata)
    expected = "checksum" if metadata == {"format": FORMAT} else f"expected {FORMAT}"
    assert expected in refused(path)


class Payload:
    """Unpickling this creates a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch_legacy"])
def test_a_pickle_is_refused_and_never_run(path: Path, kind: str) -> None:
    proof = path.with_name("proof")
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Payload(proof)))
    else:
        torch.save(Payload(proof), path, _use_new_zipfile_serialization=kind == "torch")
    refused(path)
    assert not proof.exists()
    if kind == "pickle":  # the payload is real
        pickle.loads(path.read_bytes())
        assert proof.exists()


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "x", FORMAT)
    refused(tmp_path)  # a directory


def test_the_file_before_is_kept(path: Path) -> None:
    keep = path.with_name("before")
    for value in (1.0, 2.0):
        write_tensors(path, FORMAT, {"a": torch.tensor(value)}, {}, keep)
    assert read_tensors(path, FORMAT)[0]["a"] == 2
    assert read_tensors(keep, FORMAT)[0]["a"] == 1
