"""Files of every kind that is read, for a fuzzer to edit.

Each reader has a folder that it makes once, and a function that reads it. Files that are written
with a checksum are also edited before the checksum is made: what they say is then wrong.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import safetensors
import yaml
from PIL import Image
from safetensors.torch import load_file

from cmpolicy import ConsistencyPolicy
from cmpolicy.cli.resume import resumed_config
from cmpolicy.datasets.resolve import load_path
from cmpolicy.images.cifar import (
    read_binary_batch,
    read_json_labels,
    read_png_sheet,
    read_python_batch,
)
from cmpolicy.images.files import read_idx, read_npz
from cmpolicy.images.folder import read_picture
from cmpolicy.images.metrics import read_reference
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.trained_agent import read_record
from cmpolicy.tensor_file import write_tensors
from cmpolicy.training.checkpoint import FORMAT, load_state
from cmpolicy.training.run_directory import RunDirectory

RNG = np.random.default_rng(0)
Edit = Callable[[Any], Any]  # of bytes, or of a tree of JSON


class Reader(NamedTuple):
    """A kind of file.

    Attributes:
        content: what a whole file holds: bytes, or a tree of JSON.
        write: puts that into a file.
        read: reads the file.
    """

    content: Any
    write: Callable[[Path, Any], Any]
    read: Callable[[Path], Any]


def readers(run: Path) -> dict[str, Reader]:
    """All readers by name; `run` is a finished run of an agent."""
    policy, checkpoint = run / "policy.safetensors", run / "checkpoints/last.safetensors"
    text = json.dumps
    return {
        "policy": of_bytes(policy.read_bytes(), ConsistencyPolicy.load),
        "policy, its arguments": of_text_in(policy, "arguments", ConsistencyPolicy.load),
        "checkpoint": of_bytes(checkpoint.read_bytes(), load_state),
        "checkpoint, its tree": of_text_in(checkpoint, "tree", load_state),
        "HDF5": of_bytes(hdf5(), load_path),
        "HDF5, its arrays": Reader(columns(), write_hdf5, load_path),
        "Minari, metadata": Reader(metadata(), write_minari, load_path),
        ".npz": of_bytes(npz(arr_0=pictures(), arr_1=np.arange(3)), read_npz),
        ".npz, statistics": of_bytes(npz(mu=np.zeros(3), sigma=np.eye(3)), read_reference),
        "IDX": of_bytes(idx(), read_idx),
        "IDX, gzip": of_bytes(gzip.compress(idx()), read_idx),
        "CIFAR, binary": of_bytes(b"\1" + bytes(3072), read_binary_batch),
        "CIFAR, Python": of_bytes(python_batch(), read_python_batch),
        "CIFAR, sheet": of_bytes(picture((1024, 4), "PNG"), read_png_sheet),
        "CIFAR, labels": Reader([1, 2, 3], write_json, lambda path: read_json_labels(path, 3)),
        **{f"picture, {kind}": of_bytes(picture((9, 7), kind), read_picture) for kind in KINDS},
        "metrics.csv": in_run(run, "metrics.csv", lambda path: RunDirectory(path).read_metrics()),
        "results.json": of_tree_in_run(run, "results.json", text, lambda p: read_record(open_(p))),
        "config.yaml": in_run(run, "config.yaml", config_of),
        "config.yaml, its tree": of_tree_in_run(run, "config.yaml", yaml.safe_dump, config_of),
    }


KINDS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
open_ = RunDirectory.existing


def config_of(path: Path) -> RLConfig:
    return resumed_config(path, [], RLConfig)


def of_bytes(content: bytes, read: Callable[[Path], Any]) -> Reader:
    """A file of which only bytes are known."""
    return Reader(content, Path.write_bytes, read)


def of_text_in(file: Path, key: str, read: Callable[[Path], Any]) -> Reader:
    """JSON in the header of a file of tensors, whose checksum is right."""
    with safetensors.safe_open(file, framework="pt") as opened:
        text = dict(opened.metadata())
    tensors, file_format = load_file(file), text.pop("format")

    def write(path: Path, tree: Any) -> None:
        write_tensors(path, file_format, tensors, {**text, key: json.dumps(tree)})

    assert key != "tree" or file_format == FORMAT
    return Reader(json.loads(text[key]), write, read)


def in_run(run: Path, name: str, read: Callable[[Path], Any]) -> Reader:
    """A file of a run directory, of which only bytes are known."""

    def write(path: Path, content: bytes) -> None:
        (path / name).write_bytes(content)

    return Reader((run / name).read_bytes(), write, read)


def of_tree_in_run(
    run: Path, name: str, dump: Callable[[Any], str], read: Callable[[Path], Any]
) -> Reader:
    """A file of a run directory, as a tree."""

    def write(path: Path, tree: Any) -> None:
        (path / name).write_text(dump(tree))

    return Reader(yaml.safe_load((run / name).read_text()), write, read)


def write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree))


def columns() -> dict[str, Any]:
    """Arrays in D4RL's layout, as lists."""
    flags = (np.arange(12) % 6 == 5).tolist()
    actions = RNG.uniform(-1, 1, (12, 2)).tolist()
    rows = {"observations": RNG.normal(size=(12, 3)).tolist(), "actions": actions}
    return {**rows, "rewards": [0.5] * 12, "terminals": flags, "timeouts": [False] * 12}


def write_hdf5(path: Path, tree: Any) -> None:
    """What HDF5 can hold of a tree; the rest is left out."""
    with h5py.File(path, "w") as file:
        for name, value in tree.items() if isinstance(tree, dict) else ():
            try:
                file[str(name) or "-"] = value
            except (TypeError, ValueError, OverflowError, RuntimeError, OSError, UnicodeError):
                continue


def hdf5() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in columns().items():
            file[name] = value
    return buffer.getvalue()


def metadata() -> dict[str, Any]:
    """Metadata as Minari writes it, of one episode of four steps."""
    box = {"type": "Box", "dtype": "float32", "shape": [3], "low": [-1.0] * 3, "high": [1.0] * 3}
    actions = {**box, "shape": [2], "low": [-1.0] * 2, "high": [1.0] * 2}
    spec = {"id": "Hopper-v5", "kwargs": {}, "max_episode_steps": 9, "additional_wrappers": []}
    return {
        "dataset_id": "mine/robot-v0",
        "total_episodes": 1,
        "total_steps": 4,
        "data_format": "hdf5",
        "observation_space": box,
        "action_space": actions,
        "env_spec": spec,
        "ref_min_score": 0.0,
        "ref_max_score": 1.0,
    }


def write_minari(path: Path, tree: Any) -> None:
    """A dataset whose metadata are a tree; spaces and specifications are JSON within JSON."""
    (path / "data").mkdir(exist_ok=True)
    if isinstance(tree, dict):
        nested = ("observation_space", "action_space", "env_spec")
        tree = {k: json.dumps(v) if k in nested else v for k, v in tree.items()}
    (path / "data/metadata.json").write_text(json.dumps(tree))
    with h5py.File(path / "data/main_data.hdf5", "w") as file:
        episode = file.create_group("episode_0")
        episode["observations"] = np.zeros((5, 3), np.float32)
        episode["actions"] = np.zeros((4, 2), np.float32)
        episode["rewards"], episode["terminations"] = np.zeros(4), np.zeros(4, bool)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def pictures() -> Any:
    return RNG.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)


def idx() -> bytes:
    return bytes((0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 4)) + bytes(48)


def python_batch() -> bytes:
    data = np.zeros((2, 3072), np.uint8)
    return pickle.dumps({b"data": data, b"labels": [1, 2], b"batch_label": b"x"}, protocol=4)


def picture(size: tuple[int, int], kind: str) -> bytes:
    buffer = io.BytesIO()
    pixels = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def place_for(name: str, run: Path, folder: Path) -> Path:
    """Where a reader's file is written: a file, or a run directory of its own."""
    place = folder / "place"
    if name.startswith(("metrics", "results", "config")):
        shutil.copytree(run, place)
    elif name.startswith("Minari"):
        place.mkdir()
    return place
