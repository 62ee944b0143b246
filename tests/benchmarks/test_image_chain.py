"""The chain of image models, small: its rows, its table, and that it goes on where it stopped."""

from __future__ import annotations

import csv
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn


@pytest.fixture(autouse=True)
def _threads() -> Any:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


class Pooled(nn.Module):
    """As many features as Inception, by averaging its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, (32, 64)).mean(1).flatten(1)


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Sixty random images in CIFAR-10's binary files, and a script in place of Inception."""
    rng = np.random.default_rng(0)
    for i in range(1, 6):
        rows = rng.integers(256, size=(12, 1 + 3072), dtype=np.uint8)
        rows[:, 0] %= 10
        (tmp_path / f"data_batch_{i}.bin").write_bytes(rows.tobytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Pooled()).save(str(tmp_path / "pooled.pt"))
    return tmp_path


@pytest.mark.slow
def test_teacher_student_and_dmd2_have_rows_samples_and_checkpoints(
    load: Any, cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFAR-10's chain from end to end."""
    monkeypatch.setenv("CMPOLICY_CACHE", str(tmp_path / "cache"))
    chain = load("image_chain")
    arguments = [
        *("data=cifar10_small", f"root={cifar}", f"inception={cifar / 'pooled.pt'}", "unit=0.2"),
        *("stages=[edm,cd,dmd2]", "samples=40", "judges=[inception]", "threads=1", "device=cpu"),
        *("train=[network.channels=8,batch_size=16]", f"out={tmp_path}"),
    ]
    chain.main([*arguments, "stop_after=0"])  # nothing begins
    assert not (tmp_path / "image_chain.csv").exists()
    chain.main(arguments)
    with (tmp_path / "image_chain.csv").open() as file:
        rows = {row["stage"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["edm", "cd", "dmd2"]
    assert [float(r["total_seconds"]) for r in rows.values()] == pytest.approx([0.2, 0.4, 0.6])
    assert float(rows["edm"]["teacher frechet inception"]) > 0
    for name in ("cd", "dmd2"):
        for sampler in ("1 step", "2 steps"):
            assert float(rows[name][f"{sampler} frechet inception"]) > 0
    runs = tmp_path / "runs" / "chain-cifar10_small-0.2s-seed0"
    images = np.load(runs / "dmd2" / "samples-1-step-40.npz")
    assert images["arr_0"].shape == (40, 32, 32, 3)
    assert images["arr_1"].shape == (40,)
    table = (tmp_path / "image_chain_cifar10_small.md").read_text()
    assert "| dmd2 | cd | 0.6 |" in table
    assert Image.open(tmp_path / "image_chain_cifar10_small.png").size[0] > 900

    before = (tmp_path / "image_chain.csv").read_text()
    monkeypatch.setattr(subprocess, "Popen", None)  # would fail if anything were trained
    chain.main(arguments)
    assert (tmp_path / "image_chain.csv").read_text() == before


def test_stages_of_one_total_compare(load: Any) -> None:
    chain = load("image_chain")
    units = {name: chain.units(name) for name in chain.STAGES}
    two = {"cd", "cd 18", "ect", "cd half, dmd2", "dmd2 alone"}
    assert {units[name] for name in two} == {2.0}
    assert units["cd longer"] == units["dmd2"] == 3.0
    assert set(chain.SHORT) <= set(chain.STAGES)


def test_a_judge_without_weights_is_left_out(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cmpolicy.errors import InputError
    from cmpolicy.images.dataset import open_images
    from cmpolicy.images.extractors import Extractor

    judges = load("image_judges")
    images = open_images("digits")

    def open_extractor(name: str, *_: Any, **__: Any) -> Extractor:
        if name == "efficientnet_lite0":
            raise InputError("no weights")
        return Extractor(name, "0", lambda x: x.flatten(1)[:, :20].float(), torch.device("cpu"))

    monkeypatch.setattr(judges, "open_extractor", open_extractor)
    names = ["classifier", "efficientnet_lite0"]
    [only] = judges.open_judges(names, images, tmp_path, {}, "cpu")
    assert "efficientnet_lite0 does not judge: no weights" in capsys.readouterr().out
    assert abs(only.measure("1 step", images.images)["1 step frechet classifier"]) < 1e-2
    assert only.measure("1 step", images.images[:300])["1 step frechet classifier"] > 1
    with pytest.raises(InputError, match="no weights"):
        judges.open_judges(names[::-1], images, tmp_path, {}, "cpu")
    # the independent one compares with as many images as it has time for, and is kept on disk
    monkeypatch.setitem(judges.REFERENCES, "classifier", 50)
    [few] = judges.open_judges(["classifier"], images, tmp_path, {}, "cpu")
    assert few.truth.features.shape == (50, 20)
    assert len(list(tmp_path.glob("digits-classifier-0-*.npy"))) == 2


def test_unknown_stages_are_refused(load: Any) -> None:
    with pytest.raises(SystemExit, match=r"unknown stages \{'gan'\}"):
        load("image_chain").main(["stages=[gan]"])
