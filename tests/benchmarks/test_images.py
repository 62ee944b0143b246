"""The benchmark of image models, small, and what times a published code."""

from __future__ import annotations

import csv
import time

import pytest
import torch
from PIL import Image


@pytest.mark.slow
def test_one_table_and_one_sheet_of_all_methods(load, tmp_path, monkeypatch):
    monkeypatch.setenv("CMPOLICY_CACHE", str(tmp_path / "cache"))
    images = load("images")
    options = ["quick=true", "seconds=1", f"out={tmp_path}", "threads=1"]
    options += ["efficientnet=nowhere"]  # the second judge takes minutes
    images.main(options)
    with (tmp_path / "images.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["edm", "cd", "ect"]
    for name in ("1 step", "2 steps", "5 steps"):
        assert float(rows["cd"][f"{name} frechet"]) > float(rows["cd"]["test images frechet"])
        assert rows["edm"][f"{name} frechet"] == ""
    assert rows["edm"]["teacher, Heun 18 frechet"]
    # a distillation's seconds are its teacher's and its own
    teacher, student = rows["edm"]["updates"], rows["cd"]["updates"]
    assert student.startswith(f"{teacher} + ")
    assert float(rows["cd"]["train_seconds"]) > float(rows["edm"]["train_seconds"])
    table = (tmp_path / "images.md").read_text()
    assert "Fréchet distance (classifier) of 200 samples against all 1,493" in table
    assert "| test images (200), the floor |" in table
    assert "| EfficientNet, 1 step | 2 steps | Heun 18 |" in table
    assert Image.open(tmp_path / "images.png").size[0] > 900

    before = (tmp_path / "images.csv").read_text()
    monkeypatch.setattr(images.subprocess, "run", None)  # would fail if anything were trained
    images.main(options)
    assert (tmp_path / "images.csv").read_text() == before


def test_the_independent_judge_has_its_columns(load):
    images, judges = load("images"), load("image_judges")
    row = dict.fromkeys(("machine", "torch", "date", "updates"), "x") | {"method": "cd"}
    row |= {"references": "60000", "test images count": "5000", "train_seconds": "3"}
    row |= {f"1 step frechet {judges.INDEPENDENT}": "33.33", "1 step frechet": "0.2"}
    row[f"test images frechet {judges.INDEPENDENT}"] = "4.44"
    extractor = type("E", (), {"distance": "D", "weights": "w"})
    options = {"data": "mnist", "samples": 10, "seed": 0, "seconds": 6.0, "teacher_share": 0.5}
    table = images.markdown([row], extractor, options)
    assert "| cd | 0.20 | – | – | – | 33.3 | – | – | – | – | – | – | x | 3 |" in table
    floor = next(line for line in table.splitlines() if line.startswith("| test images"))
    assert "| 4.4 |" in floor
    counts = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert len(counts) == 1


def test_unknown_options_and_methods_are_refused(load, tmp_path):
    images = load("images")
    with pytest.raises(SystemExit, match="unknown option 'metod'"):
        images.main(["metod=cd"])
    with pytest.raises(SystemExit, match="unknown methods"):
        images.main(["methods=[gan]", f"out={tmp_path}"])
    assert "edm" not in images.methods_there_are()


def test_epochs_share_the_time(load):
    """Each is over at its share of the whole; time between batches counts, time after does not."""
    batches = load("seed_mnist").TimedEpochs(torch.zeros(5, 1, 32, 32), 0.2, 4)
    begin = time.perf_counter()
    for epoch in range(1, 5):
        for x, _ in batches:
            assert x.shape == (128, 1, 32, 32)
            time.sleep(0.02)
        assert batches.spent >= 0.2 * epoch / 4
        time.sleep(0.05)
    assert batches.updates <= 10
    assert time.perf_counter() - begin - 0.2 == pytest.approx(batches.spent, abs=0.05)


def test_the_seeds_directory_is_asked_for(load):
    with pytest.raises(SystemExit, match="give the directory of a clone"):
        load("seed_mnist").main([])
