"""Image runs of the train command: results, teachers, resumption, processes, models, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cmpolicy.cli.resume import load_config
from cmpolicy.errors import InputError
from cmpolicy.generative.loss_config import LossConfig
from cmpolicy.images.config import ImageConfig, ImageDataConfig, ImageEvalConfig, UNetConfig
from cmpolicy.images.dataset import ImageDataset
from cmpolicy.images.model import ImageModel, load_image_model
from cmpolicy.images.task import ImageTask, TrainingImages, pixel_distance
from cmpolicy.train import train
from cmpolicy.training.checkpoint import load_state, save_state
from cmpolicy.training.distributed import Ranks
from cmpolicy.training.run_directory import RunDirectory

CPU = torch.device("cpu")


def config(loss: str, run: Path | None = None, **overrides: Any) -> ImageConfig:
    options = {"parameterization": "karras", "warmup": 5, **overrides.pop("training", {})}
    values: dict[str, Any] = {
        "loss": LossConfig(loss, **options),
        "network": UNetConfig(channels=8, multipliers=[1, 2]),
        "steps": 8,
        "batch_size": 16,
        "log_every": 4,
        "checkpoint_every": 4,
        "eval": ImageEvalConfig(every=4, samples=20, final_samples=20),
        "precision": "fp32",
        "device": "cpu",
        "progress": False,
        "run_dir": None if run is None else str(run),
    }
    return ImageConfig(**{**values, **overrides})


def task(*args: Any, **kwargs: Any) -> ImageTask:
    return ImageTask(config(*args, **kwargs), CPU, Ranks())


def results(run: Path) -> Any:
    return json.loads((run / "results.json").read_text())


def modules(run: Path) -> dict[str, Tensor]:
    return RunDirectory(run).load_checkpoint("last")["learner"]["modules"]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a teacher alone, with two averages."""
    run = tmp_path_factory.mktemp("runs") / "teacher"
    train(config("edm", run, training={"other_ema_decays": [0.2]}), [])
    return run


@pytest.fixture(scope="module")
def model(teacher: Path) -> ImageModel:
    return load_image_model(teacher)


def test_a_teacher_alone(teacher: Path) -> None:
    found = results(teacher)
    assert found["finished"]
    assert list(found["last"]["distances"]) == ["teacher, Heun 18", "training images"]
    assert found["dataset"]["shape"] == [1, 8, 8]
    assert found["dataset"]["class_names"] == [str(k) for k in range(10)]
    assert [e["step"] for e in found["evaluations"]] == [4, 8]
    expected = config("edm", teacher, training={"other_ema_decays": [0.2]})
    assert load_config(RunDirectory.existing(teacher), ImageConfig) == expected
    Image.open(teacher / "samples.png").verify()


@pytest.mark.parametrize("loss", ["cd", "ect"])
def test_a_student_from_the_teacher_of_another_run(
    tmp_path: Path, teacher: Path, model: ImageModel, loss: str
) -> None:
    first, run = task(loss, teacher=str(teacher)).learner, tmp_path / "run"
    assert first.teacher_steps == 0
    averaged = model.learner.teacher.average_network.state_dict()
    assert equal(dict(first.student.network.state_dict()), dict(averaged))
    train(config(loss, run, teacher=str(teacher)), [])
    samplers = ["1 step", "2 steps", "5 steps", "teacher, Heun 18", "training images"]
    assert list(results(run)["last"]["distances"]) == samplers
    opened = load_image_model(run)  # does not need the teacher's run
    assert opened.step == 8
    assert equal(dict(opened.part("teacher").average_network.state_dict()), dict(averaged))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sigma_max": 40.0}, "sigma_max=80.0, this run 40.0"),
        ({"conditional": False}, "conditional=True"),
        ({"network": UNetConfig(channels=16, multipliers=[1, 2])}, "network="),
        ({"training": {"parameterization": "trigflow"}}, "parameterization=karras"),
        ({"data": ImageDataConfig(size=16)}, "trained on images of"),
    ],
    ids=str,
)
def test_a_teacher_that_does_not_fit_is_refused(
    teacher: Path, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        task("cd", teacher=str(teacher), **wrong)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    """A run that distilled the teacher."""
    run = tmp_path_factory.mktemp("runs") / "student"
    train(config("cd", run, teacher=str(teacher)), [])
    return run


def test_dmd2_goes_on_with_the_student_of_a_distilled_run(student: Path, teacher: Path) -> None:
    distilled = load_image_model(student)
    begun = task("dmd2", teacher=str(student)).learner
    theirs = dict(distilled.part("student").average_network.state_dict())
    taught = dict(distilled.part("teacher").average_network.state_dict())
    assert equal(dict(begun.student.network.state_dict()), theirs)
    assert equal(dict(begun.student.average_network.state_dict()), theirs)
    assert equal(dict(begun.fake.network.state_dict()), taught)
    assert equal(dict(begun.teacher.average_network.state_dict()), taught)
    assert not equal(theirs, taught)
    alone = task("dmd2", teacher=str(teacher)).learner  # of a teacher alone, as it
    assert equal(dict(alone.student.network.state_dict()), taught)


def test_a_resumed_dmd2_run_ends_in_the_same_weights(
    tmp_path: Path, killed_after: Any, student: Path
) -> None:
    same: dict[str, Any] = {
        "teacher": str(student),
        "training": {"options": {"fake_updates": 2}},
    }
    train(config("dmd2", tmp_path / "straight", **same), [])
    stopped = tmp_path / "stopped"
    with killed_after(5):
        train(config("dmd2", stopped, checkpoint_every=5, **same), [])
    train(ImageConfig(resume=str(stopped)), [f"resume={stopped}"])
    assert equal(modules(stopped), modules(tmp_path / "straight"))
    samplers = ["1 step", "2 steps", "5 steps", "teacher, Heun 18", "training images"]
    assert list(results(stopped)["last"]["distances"]) == samplers
    assert load_image_model(stopped).step == 8


def test_dropout_may_differ_from_that_of_the_teacher(teacher: Path) -> None:
    network = UNetConfig(channels=8, multipliers=[1, 2], dropout=0.2)
    assert task("cd", teacher=str(teacher), network=network).learner.has_dropout


def test_a_perceptual_loss_trains_its_classifier_once(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("CMPOLICY_CACHE", str(cache))
    for name, perceptual in (("features", True), ("pixels", False)):
        training = {"perceptual": perceptual}
        train(config("cd", tmp_path / name, teacher=str(teacher), training=training), [])
        assert len(list(cache.glob("classifier-*"))) == 1
    assert not equal(modules(tmp_path / "features"), modules(tmp_path / "pixels"))
    assert load_image_model(tmp_path / "features").step == 8  # needs no classifier


@pytest.mark.parametrize(
    ("stop", "optimizer"), [(3, "adam"), (4, "radam"), (6, "adam"), (6, "radam")]
)
def test_a_resumed_run_ends_in_the_same_weights(
    tmp_path: Path, killed_after: Any, stop: int, optimizer: str
) -> None:
    """In the teacher's phase, at its end, and in the student's; with dropout and two averages."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    network = UNetConfig(channels=8, multipliers=[1, 2], dropout=0.2)
    training = {"teacher_steps": 4, "other_ema_decays": [0.2], "optimizer": optimizer}
    same: dict[str, Any] = {"network": network, "training": training, "label_dropout": 0.2}
    train(config("cd", straight, **same), [])
    with killed_after(stop):
        train(config("cd", stopped, checkpoint_every=stop, **same), [])
    train(ImageConfig(resume=str(stopped)), [f"resume={stopped}"])
    assert equal(modules(stopped), modules(straight))


def test_checkpoints_keep_the_memory_layout(tmp_path: Path) -> None:
    """Fused Adam goes through weights and moments in the order of their memory."""
    tensors = {
        "channels last": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "contiguous": torch.randn(4, 3, 2, 2),
        "transposed": torch.randn(4, 3).T,
    }
    save_state(tmp_path / "a", tensors)
    read = load_state(tmp_path / "a")
    assert equal(read, tensors)
    for name in ("channels last", "contiguous"):
        assert read[name].stride() == tensors[name].stride()


def test_two_processes_and_one_end_in_the_same_weights(tmp_path: Path) -> None:
    """Twenty updates with dropout, from the teacher's phase into the student's, in two pieces."""
    overrides = [
        *("image_loss=cd", "loss.teacher_steps=8", "steps=20", "batch_size=16", "device=cpu"),
        *("network.channels=8", "network.dropout=0.1", "precision=fp32", "eval.every=20"),
        *("eval.samples=20", "eval.final_samples=20", "loss.learning_rate=1e-3", "progress=false"),
    ]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, launcher in (("one", []), ("two", [*torchrun])):
        run = [f"run_dir={tmp_path / name}", "accumulate=2" if launcher else "accumulate=1"]
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "cmpolicy.train", "--config-name", "image",
             *overrides, *run],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("run: ") == 1  # only one process logs and writes
    one, two = modules(tmp_path / "one"), modules(tmp_path / "two")
    for key, weights in one.items():
        torch.testing.assert_close(two[key], weights, rtol=0, atol=1e-5)
    assert max(float(weights.abs().max()) for weights in one.values()) > 0.1
    assert results(tmp_path / "two")["processes"] == 2


def test_evaluation_leaves_the_global_generator_alone() -> None:
    images = task("cd", training={"teacher_steps": 2})
    state = torch.get_rng_state()
    assert images.evaluate(0) == images.evaluate(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_labels_are_shown_hidden_or_left_out() -> None:
    torch.manual_seed(0)
    pixels = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1).expand(6, 1, 4, 4) * 40
    images = ImageDataset(pixels.contiguous(), torch.arange(6) % 3, ["a", "b", "c"])
    plain = ImageDataset(pixels.contiguous())
    assert TrainingImages(images, True, 0.0).sample(9).condition is not None
    assert TrainingImages(images, False, 0.5).sample(9).condition is None
    assert TrainingImages(plain, True, 0.5).sample(9).condition is None
    batch = TrainingImages(images, True, 0.25).sample(4_000)
    hidden = batch.condition == -1
    assert hidden.double().mean().item() == pytest.approx(0.25, abs=0.03)
    shown = torch.round((batch.x[:, 0, 0, 0] + 1) * 127.5 / 40).long() % 3
    assert torch.equal(batch.condition[~hidden], shown[~hidden])


def test_the_distance_of_pixels() -> None:
    images = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)
    assert pixel_distance(images, images.flip(0))["pixel_sliced_w2"] < 1e-12
    dark, bright = (torch.full((50, 1, 4, 4), v, dtype=torch.uint8) for v in (0, 255))
    # two points at distance 2 √16: a projection keeps |u·1| of it, whose mean square is 1/16
    assert pixel_distance(dark, bright)["pixel_sliced_w2"] == pytest.approx(2, rel=0.25)


# The model of a run ------------------------------------------------------------------------------


def test_a_sample_depends_on_its_seed_alone(model: ImageModel) -> None:
    seeds = range(100, 107)
    labels = model.labels(seeds)
    sampler = model.many_steps(4)
    whole = model.sample(sampler, seeds, labels)
    parts = torch.cat(list(model.sample_batches(sampler, seeds, labels, 3)))
    assert (whole.int() - parts.int()).abs().max() <= 1  # rounding
    assert whole.dtype == torch.uint8
    again = model.sample(sampler, [103], torch.tensor([3]))
    assert (again[0].int() - whole[3].int()).abs().max() <= 1
    assert not torch.equal(model.sample(sampler, [104], torch.tensor([3]))[0], again[0])


def test_labels_in_turn_or_one_for_all(model: ImageModel) -> None:
    assert model.labels(range(8, 13)).tolist() == [8, 9, 0, 1, 2]
    assert model.labels(range(3), 7).tolist() == [7, 7, 7]
    with pytest.raises(InputError, match="label is 10, expected 0 to 9"):
        model.labels(range(3), 10)


def test_encode_and_decode_are_inverse(model: ImageModel) -> None:
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    x0 = model.encode(images)
    assert x0.dtype == torch.float32
    assert torch.equal(model.decode(x0), images)


def test_missing_parts_and_averages_are_refused(model: ImageModel) -> None:
    with pytest.raises(InputError, match="the run has no student; it has: teacher"):
        model.part("student")
    noise, level = torch.randn(2, 1, 8, 8), torch.full((2,), 3.0)
    chosen, other = (model.function(None, None, d)(noise, level) for d in (None, 0.2))
    assert not torch.equal(chosen, other)
    with pytest.raises(InputError, match=r"no average of decay 0\.7"):
        model.function(None, None, 0.7)


# Wrong input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"network": UNetConfig(channels=8, multipliers=[1, 1, 1, 1, 1])}, "multiples of 16"),
        ({"accumulate": 3}, "batch_size=16 must be a multiple of 3"),
        ({"data": ImageDataConfig("diggits")}, "diggits"),
        ({"training": {"teacher_steps": 8}}, "a distillation needs a teacher"),
        ({"teacher": "nowhere"}, "nowhere is not a run"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        task("cd", **overrides)


def test_a_perceptual_loss_needs_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((40, 8, 8, 1), np.uint8))
    data = ImageDataConfig("npz", root=str(tmp_path / "images.npz"))
    with pytest.raises(InputError, match=r"no labels; set loss\.perceptual=false"):
        task("cd", data=data, training={"perceptual": True, "teacher_steps": 4})


@pytest.mark.parametrize(
    ("loss", "overrides"),
    [
        ("ect", {"precision": "float8"}),
        ("ect", {"accumulate": 0}),
        ("ect", {"label_dropout": 1.5}),
        ("ect", {"sigma_min": 90.0}),
        ("ect", {"training": {"stable_target": True}}),
        ("edm", {"teacher": "run"}),
    ],
)
def test_values_out_of_range_are_refused(loss: str, overrides: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        config(loss, **overrides)


def test_a_toys_run_is_no_image_model(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "toy")
    run.create("toy: three_gmm\n")
    with pytest.raises(InputError, match="is not an image run"):
        load_image_model(run.path)
