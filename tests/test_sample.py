"""The sample command: pictures, files, ways to give levels, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cmpolicy.consistency.schedules import karras_sigmas
from cmpolicy.errors import InputError
from cmpolicy.generative.loss_config import LossConfig
from cmpolicy.images.config import ImageConfig, ImageEvalConfig, SampleConfig, UNetConfig
from cmpolicy.images.files import read_npz
from cmpolicy.images.model import ImageModel, load_image_model
from cmpolicy.sample import bracketed, sample, sampler_of
from cmpolicy.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student and its teacher, hardly trained."""
    path = tmp_path_factory.mktemp("runs") / "run"
    config = ImageConfig(
        loss=LossConfig("cd", parameterization="karras", teacher_steps=3, other_ema_decays=[0.1]),
        network=UNetConfig(channels=8),
        steps=6,
        batch_size=16,
        eval=ImageEvalConfig(every=6, samples=20, final_samples=20),
        precision="fp32",
        device="cpu",
        progress=False,
        run_dir=str(path),
    )
    train(config, [])
    return path


@pytest.fixture(scope="module")
def model(run: Path) -> ImageModel:
    return load_image_model(run)


def config(path: Path, **overrides: Any) -> SampleConfig:
    base = SampleConfig(run=str(path), num_samples=4, device="cpu", progress=False)
    return dataclasses.replace(base, **overrides)


def pictures(path: Path) -> torch.Tensor:
    return torch.from_numpy(read_npz(path).images).int()


def test_files_in_openais_convention(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    sample(config(run, num_samples=12, out=str(out), columns=4), [])
    with np.load(out) as file:
        assert file["arr_0"].shape == (12, 8, 8, 1)
        assert file["arr_0"].dtype == np.uint8
        assert file["arr_1"].tolist() == [*range(10), 0, 1]
    sheet = Image.open(tmp_path / "a.png")
    assert sheet.width / sheet.height == pytest.approx(4 / 3, abs=0.05)


@pytest.mark.parametrize("how", [{"steps": 3}, {"model": "teacher", "steps": 4, "churn": 8.0}])
def test_the_same_picture_for_a_seed(run: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    """Whatever the batch size, the number of samples and the first seed."""
    found = []
    for seed, num_samples, batch_size in ((0, 7, 100), (0, 5, 2), (3, 2, 1)):
        out = tmp_path / f"{seed}-{num_samples}.npz"
        given = config(run, seed=seed, num_samples=num_samples, batch_size=batch_size, **how)
        sample(dataclasses.replace(given, out=str(out)), [])
        found.append(pictures(out))
    assert (found[0][:5] - found[1]).abs().max() <= 1  # rounding
    assert (found[0][3:5] - found[2]).abs().max() <= 1
    assert (found[0][0] - found[0][1]).abs().max() > 1


def test_one_label_for_all(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    sample(config(run, label=3, out=str(out)), [])
    labels = read_npz(out).labels
    assert labels is not None
    assert labels.tolist() == [3] * 4


def test_the_file_is_named_for_what_was_asked(run: Path) -> None:
    for how, name in (
        ({"steps": 2}, "samples-student-steps2-last-seed0.npz"),
        ({"levels": [80.0, 2.5]}, "samples-student-levels80-2.5-last-seed0.npz"),
        ({"model": "teacher", "steps": 3, "seed": 5}, "samples-teacher-steps3-last-seed5.npz"),
        ({"ema": 0.1, "checkpoint": "best"}, "samples-student-steps1-best-seed0-ema0.1.npz"),
    ):
        sample(config(run, **how), [])
        assert (run / name).is_file()
        assert (run / name).with_suffix(".png").is_file()


def test_levels_by_index_are_openais(run: Path, model: ImageModel) -> None:
    grid = karras_sigmas(40, 0.002, 80.0).tolist()
    found = sampler_of(config(run, ts=[0, 22, 39], steps=40), model)
    assert list(found.levels) == [grid[0], grid[22]]
    assert sampler_of(config(run, ts=[0, 22, 39]), model).levels == found.levels
    assert list(sampler_of(config(run), model).levels) == [80.0]
    levels = sampler_of(config(run, levels=[80.0, 1.0]), model).levels
    assert list(levels) == [80.0, 1.0]
    teacher = sampler_of(config(run, model="teacher"), model)
    assert (len(teacher.levels), teacher.levels[-1]) == (19, 0.0)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"ts": [0, 40]}, "indices from 0 to 39"),
        ({"ts": [22, 0]}, "strictly decreasing"),
        ({"levels": [1.0, 80.0]}, "strictly decreasing"),
        ({"levels": [80.0], "steps": 2}, "not several"),
        ({"model": "teacher", "ts": [0, 1]}, "for a student"),
        ({"churn": 5.0}, "for a teacher"),
        ({"ema": 0.77}, "no average of decay 0.77 is kept; choose one of 0.999, 0.1"),
        ({"label": 10}, "expected 0 to 9"),
        ({"unconditional": True}, "has always seen labels"),
        ({"unconditional": True, "label": 1}, "leave one of them out"),
        ({"out": "nowhere/a.npz"}, "in a directory that is"),
        ({"out": "a.png"}, "ends in .npz"),
        ({"run": "nowhere"}, "is not a run"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(run: Path, how: dict[str, Any], said: str) -> None:
    before = set(run.iterdir())
    with pytest.raises(InputError, match=said):
        sample(config(run, **how), [])
    assert set(run.iterdir()) == before


@pytest.mark.parametrize(
    "how", [{"num_samples": 0}, {"solver": "rk4"}, {"model": "critic"}, {"checkpoint": "worst"}]
)
def test_values_out_of_range_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SampleConfig(run="run", **how)


def test_bare_commas_are_a_list() -> None:
    assert bracketed("ts=0,22,39") == "ts=[0,22,39]"
    assert bracketed("levels=80") == "levels=[80]"
    assert bracketed("ts=[0,1]") == "ts=[0,1]"
    assert bracketed("run=a,b") == "run=a,b"
