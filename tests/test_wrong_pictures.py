"""Wrong pictures and labels from outside: one line that says what was wrong, exit code 2."""

from __future__ import annotations

import gzip
import importlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cmpolicy.generative.loss_config import LossConfig
from cmpolicy.images.config import ImageConfig, ImageEvalConfig, UNetConfig
from cmpolicy.train import train

Make = Callable[[Path, Path], list[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of 8×8 digits, hardly trained."""
    path = tmp_path_factory.mktemp("runs") / "run"
    loss = LossConfig("ect", parameterization="karras")
    evaluations = ImageEvalConfig(every=2, samples=10, final_samples=10)
    train(
        ImageConfig(
            loss=loss, network=UNetConfig(channels=8), eval=evaluations, steps=2, batch_size=8,
            device="cpu", progress=False, run_dir=str(path),
        ),
        [],
    )  # fmt: skip
    return path


def truncated_idx(run: Path, place: Path) -> list[str]:
    """Ten pictures promised, half a picture there."""
    header = struct.pack(">IIII", 0x0803, 10, 28, 28)
    for split in ("train", "t10k"):
        file = place / f"{split}-images-idx3-ubyte.gz"
        file.write_bytes(gzip.compress(header + bytes(28 * 14)))
        labels = struct.pack(">II", 0x0801, 10) + bytes(10)
        (place / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return ["train", "--config-name", "image", "data=mnist", f"data.root={place}"]


def picture_of_another_size(run: Path, place: Path) -> list[str]:
    Image.new("L", (9, 7)).save(place / "picture.png")
    return ["edit", f"run={run}", "task=inpaint", f"picture={place / 'picture.png'}"]


def label_out_of_range(run: Path, place: Path) -> list[str]:
    return ["sample", f"run={run}", "label=10"]


def npz_without_pictures(run: Path, place: Path) -> list[str]:
    np.savez(place / "a.npz", images=np.zeros((4, 8, 8, 1), np.uint8))
    return ["evaluate", f"npz={place / 'a.npz'}", "data.name=digits"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (truncated_idx, ["train-images-idx3-ubyte.gz", "holds 392 bytes", "10 × 28 × 28"]),
        (picture_of_another_size, ["9", "7", "8"]),
        (label_out_of_range, ["label", "10", "0 to 9"]),
        (npz_without_pictures, ["arr_0", "it holds images"]),
    ],
)
def test_one_line_and_exit_code_2(
    run: Path, tmp_path: Path, command: Any, make: Make, said: list[str]
) -> None:
    module, *arguments = make(run, tmp_path)
    code, err = command(importlib.import_module(f"cmpolicy.{module}"), *arguments)
    assert code == 2, err
    [line] = [line for line in err.splitlines() if line.startswith("error:")]
    assert "Traceback" not in err
    assert all(word in line for word in said), line
