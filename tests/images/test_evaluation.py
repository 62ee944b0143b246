"""Images in the evaluate command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.errors import InputError
from cmpolicy.evaluate import EvaluateConfig, evaluate
from cmpolicy.images import classifier as image_classifier
from cmpolicy.images.config import ComparedImages
from cmpolicy.images.dataset import open_images
from cmpolicy.images.evaluation import open_truth
from cmpolicy.images.files import write_npz
from cmpolicy.images.metrics import read_reference
from cmpolicy.train import train

TINY = (
    *("steps=4", "batch_size=4", "eval.samples=4", "eval.final_samples=4", "eval.every=4"),
    *("network.channels=8", "network.multipliers=[1]", "image_loss=cd", "threads=1"),
    *("loss.teacher_steps=2", "progress=false", "device=cpu"),
)
DIGITS = ComparedImages("digits")


@pytest.fixture(autouse=True)
def quick_classifier(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(image_classifier, "UPDATES", 30)
    monkeypatch.setenv("CMPOLICY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "digits"
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config: Any = OmegaConf.to_object(hydra.compose("image", [*TINY, f"run_dir={path}"]))
    train(config, [])
    return path


@pytest.fixture
def evaluated(capsys):
    """evaluated(**options): lines of the table by what they begin with."""

    def table(**options: Any) -> dict[str, str]:
        evaluate(EvaluateConfig(device="cpu", **options), [])
        lines = capsys.readouterr().out.splitlines()
        return {line.split("  ")[0].strip(): line for line in lines}

    return table


def test_every_sampler_of_a_run_is_compared(run, evaluated):
    rows = evaluated(run=str(run), num_samples=30, seed=5)
    assert list(rows) == ["1 step", "2 steps", "5 steps", "teacher, Heun 18", "test images"]
    for line in rows.values():
        assert "Fréchet distance (classifier)" in line
        assert "(30 samples against 1,493 images)" in line
    written = [json.loads(x) for x in (run / "evaluations.jsonl").read_text().splitlines()]
    assert [row["sampler"] for row in written] == list(rows)[:4]
    assert all(row["samples"] == 30 and row["references"] == 1493 for row in written)
    assert len({row["frechet"] for row in written}) == 4
    assert list(evaluated(run=str(run), num_samples=12, steps=3)) == ["3 steps", "test images"]


def test_images_of_a_file(tmp_path, evaluated):
    """Test digits are near the training digits, noise is far."""
    digits = open_images("digits", split="test").images
    found = {}
    for name, images in (("a.npz", digits), ("b.npz", torch.randint(256, digits.shape).byte())):
        write_npz(tmp_path / name, images)
        line = evaluated(npz=str(tmp_path / name), data=DIGITS)[name]
        found[name] = float(line.split("(classifier)")[1].split(",")[0])
        assert f"({len(images)} samples against 1,493 images)" in line
    assert 0 < 10 * found["a.npz"] < found["b.npz"]


def test_statistics_can_be_kept_and_replace_the_data(tmp_path, evaluated):
    write_npz(tmp_path / "a.npz", open_images("digits", split="test").images)
    common = {"npz": str(tmp_path / "a.npz"), "data": DIGITS}
    kept = str(tmp_path / "reference.npz")
    with_data = evaluated(**common, save_reference=kept)["a.npz"]
    assert read_reference(kept).count == 1493
    with_file = evaluated(**common, reference=kept)["a.npz"]
    assert with_file.split(" (304")[0] == with_data.split(", KID")[0]
    assert "KID" not in with_file


def test_labels_are_as_frequent_as_in_the_data():
    truth = open_truth(EvaluateConfig(), DIGITS, torch.device("cpu"))
    counts = torch.bincount(truth.labels(500), minlength=10) / 500
    expected = torch.bincount(truth.images.labels, minlength=10) / len(truth.images)
    torch.testing.assert_close(counts, expected, atol=0.03, rtol=0)


def test_wrong_input_is_one_line(run, tmp_path):
    write_npz(tmp_path / "colours.npz", torch.zeros(5, 3, 8, 8, dtype=torch.uint8))
    np.savez(tmp_path / "none.npz", pictures=np.zeros(3))
    colours = str(tmp_path / "colours.npz")
    for options, words in (
        ({}, "run is missing; give run=RUN, or npz=FILE"),
        ({"npz": str(tmp_path / "gone.npz")}, "there is no file"),
        ({"npz": str(tmp_path / "none.npz"), "data": DIGITS}, "has no arr_0"),
        ({"npz": colours}, "needs a dataset to be trained on"),
        ({"npz": colours, "data": DIGITS}, "samples are 3×8×8, the images of digits 1×8×8"),
        ({"npz": colours, "data": ComparedImages("faces")}, "no image dataset 'faces'"),
        ({"run": str(run), "extractor": "vgg"}, "unknown extractor 'vgg'"),
        ({"run": str(run), "extractor": "inception", "weights": "gone.pt"}, "there is no file"),
        ({"run": str(run), "reference": colours}, "not a reference file"),
    ):
        with pytest.raises(InputError, match=words):
            evaluate(EvaluateConfig(device="cpu", **options), [])
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        EvaluateConfig(num_samples=0)
