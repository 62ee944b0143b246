"""The chain of image models, small: its rows, its table, and that it goes on where it stopped."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def _threads() -> Any:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


@pytest.mark.slow
def test_teacher_student_and_dmd2_have_rows_samples_and_checkpoints(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMPOLICY_CACHE", str(tmp_path / "cache"))
    chain = load("image_chain")
    arguments = [
        *("data=digits", "unit=0.2", "stages=[edm,cd,dmd2]", "samples=40", "judges=[classifier]"),
        *("train=[network.channels=8,batch_size=16]", "threads=1", f"out={tmp_path}"),
        "device=cpu",
    ]
    chain.main([*arguments, "stop_after=0"])  # nothing begins
    assert not (tmp_path / "image_chain.csv").exists()
    chain.main(arguments)
    with (tmp_path / "image_chain.csv").open() as file:
        rows = {row["stage"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["edm", "cd", "dmd2"]
    assert [float(r["total_seconds"]) for r in rows.values()] == pytest.approx([0.2, 0.4, 0.6])
    assert float(rows["edm"]["teacher frechet classifier"]) > 0
    for name in ("cd", "dmd2"):
        for sampler in ("1 step", "2 steps"):
            assert float(rows[name][f"{sampler} frechet classifier"]) > 0
    runs = tmp_path / "runs" / "chain-digits-0.2s-seed0"
    images = np.load(runs / "dmd2" / "samples-1-step-40.npz")
    assert images["arr_0"].shape == (40, 8, 8, 1)
    assert images["arr_1"].shape == (40,)
    table = (tmp_path / "image_chain_digits.md").read_text()
    assert "| dmd2 | cd | 0.6 |" in table
    assert Image.open(tmp_path / "image_chain_digits.png").size[0] > 900

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
