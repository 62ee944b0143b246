"""Images from the evaluate command."""

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


def table(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Lines by what they begin with."""
    lines = capsys.readouterr().out.splitlines()
    return {line.split("  ")[0].strip(): line for line in lines}


def test_every_sampler_of_a_run_is_compared(run, capsys):
    evaluate(EvaluateConfig(run=str(run), num_samples=30, device="cpu", seed=5), [])
    rows = table(capsys)
    assert list(rows) == ["1 step", "2 steps", "5 steps", "teacher, Heun 18", "test images"]
    for line in rows.values():
        assert "Fréchet distance (classifier)" in line
        assert "(30 samples against 1,493 images)" in line
    written = [json.loads(x) for x in (run / "evaluations.jsonl").read_text().splitlines()]
    assert [row["sampler"] for row in written] == list(rows)[:4]
    assert all(row["samples"] == 30 and row["references"] == 1493 for row in written)
    assert len({row["frechet"] for row in written}) == 4


def test_one_number_of_steps(run, capsys):
    evaluate(EvaluateConfig(run=str(run), num_samples=12, steps=3, device="cpu"), [])
    assert list(table(capsys)) == ["3 steps", "test images"]


def test_pictures_of_a_file(tmp_path, capsys):
    """Test digits are near the training digits, noise is far."""
    digits = open_images("digits", split="test").images
    noise = torch.randint(256, digits.shape, dtype=torch.uint8)
    found = {}
    for name, pictures in (("digits.npz", digits), ("noise.npz", noise)):
        write_npz(tmp_path / name, pictures)
        evaluate(
            EvaluateConfig(npz=str(tmp_path / name), data=ComparedImages("digits"), device="cpu"),
            [],
        )
        line = table(capsys)[name]
        found[name] = float(line.split("(classifier)")[1].split(",")[0])
        assert f"({len(pictures)} samples against 1,493 images)" in line
    assert 0 < 10 * found["digits.npz"] < found["noise.npz"]


def test_statistics_can_be_kept_and_used_in_place_of_the_data(tmp_path, capsys):
    pictures = open_images("digits", split="test").images
    write_npz(tmp_path / "digits.npz", pictures)
    common = {
        "npz": str(tmp_path / "digits.npz"),
        "data": ComparedImages("digits"),
        "device": "cpu",
    }
    kept = str(tmp_path / "reference.npz")
    evaluate(EvaluateConfig(**common, save_reference=kept), [])
    with_data = table(capsys)["digits.npz"]
    assert read_reference(kept).count == 1493
    evaluate(EvaluateConfig(**common, reference=kept), [])
    with_file = table(capsys)["digits.npz"]
    assert with_file.split(" (304")[0] == with_data.split(", KID")[0]
    assert "KID" not in with_file


def test_labels_are_as_frequent_as_in_the_data():
    truth = open_truth(EvaluateConfig(), ComparedImages("digits"), torch.device("cpu"))
    labels = truth.labels(500)
    counts = torch.bincount(labels, minlength=10) / 500
    expected = torch.bincount(truth.images.labels, minlength=10) / len(truth.images)
    torch.testing.assert_close(counts, expected, atol=0.03, rtol=0)


def test_wrong_input_is_one_line(run, tmp_path):
    write_npz(tmp_path / "colours.npz", torch.zeros(5, 3, 8, 8, dtype=torch.uint8))
    np.savez(tmp_path / "none.npz", pictures=np.zeros(3))
    colours = str(tmp_path / "colours.npz")
    for options, words in (
        ({}, "run is missing; give run=RUN, or npz=FILE"),
        ({"npz": str(tmp_path / "gone.npz")}, "there is no file"),
        ({"npz": str(tmp_path / "none.npz"), "data": ComparedImages("digits")}, "has no arr_0"),
        ({"npz": colours}, "needs a dataset to be trained on"),
        (
            {"npz": colours, "data": ComparedImages("digits")},
            "samples are 3×8×8, the images of digits 1×8×8",
        ),
        ({"npz": colours, "data": ComparedImages("faces")}, "no image dataset 'faces'"),
        ({"run": str(run), "extractor": "vgg"}, "unknown extractor 'vgg'"),
        ({"run": str(run), "extractor": "inception", "weights": "gone.pt"}, "there is no file"),
        ({"run": str(run), "reference": colours}, "not a reference file"),
    ):
        with pytest.raises(InputError, match=words):
            evaluate(EvaluateConfig(device="cpu", **options), [])
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        EvaluateConfig(num_samples=0)
