"""Toy runs through the train command: results, picture, resumption, wrong input; the bandit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cmpolicy.cli.resume import load_config, resumed_config
from cmpolicy.errors import InputError
from cmpolicy.generative.loss_config import LossConfig
from cmpolicy.toys.config import ToyConfig, ToyEvalConfig
from cmpolicy.toys.task import ToyTask, make_toy_task
from cmpolicy.train import train
from cmpolicy.training.run_directory import RunDirectory

CPU = torch.device("cpu")


def config(toy: str, loss: str, run: Path | None = None, **overrides: Any) -> ToyConfig:
    values: dict[str, Any] = {
        "toy": toy,
        "loss": LossConfig(loss, teacher_steps=10 if loss in ("cd", "scd") else 0),
        "hidden": [16, 16],
        "steps": 20,
        "batch_size": 32,
        "log_every": 10,
        "checkpoint_every": 10,
        "eval": ToyEvalConfig(every=10, samples=500),
        "device": "cpu",
        "progress": False,
        "run_dir": None if run is None else str(run),
    }
    return ToyConfig(**{**values, **overrides})


def trained(run: Path, toy: str, loss: str, **overrides: Any) -> Any:
    """Train a run, check its picture, and read its results."""
    train(config(toy, loss, run, **overrides), [])
    Image.open(run / "panel.png").verify()
    return json.loads((run / "results.json").read_text())


def modules(run: Path) -> dict[str, torch.Tensor]:
    return RunDirectory(run).load_checkpoint("last")["learner"]["modules"]


@pytest.mark.parametrize(("toy", "loss"), [("three_gmm_1D", "scd"), ("two_gmm", "sct")])
def test_a_run_in_one_dimension(tmp_path: Path, toy: str, loss: str) -> None:
    run = tmp_path / "run"
    found = trained(run, toy, loss)
    assert found["finished"]
    samplers = ["1 step", "2 steps", "4 steps", "20 steps"]
    samplers += ["teacher, Heun"] if loss == "scd" else []
    assert list(found["last"]["distances"]) == samplers
    for row in found["last"]["distances"].values():
        assert row.keys() == {"w1", "kl", "kl_reverse", "std_ratio", "p_below_0"}
    assert [e["step"] for e in found["evaluations"]] == [10, 20]
    assert found["loss"]["name"] == loss
    assert load_config(RunDirectory.existing(run), ToyConfig).toy == toy
    assert resumed_config(run, ["eval.samples=700"], ToyConfig).eval.samples == 700
    with pytest.raises(InputError, match="toy cannot change"):
        resumed_config(run, ["toy=spiral"], ToyConfig)


@pytest.mark.parametrize(
    ("toy", "conditions", "name"),
    [
        ("two_moons", 0, "sliced_w2"),
        ("three_gmm_label", 3, "w1"),
        ("turning_eight_gaussians", 5, "sliced_w2"),
    ],
)
def test_a_run_in_the_plane_or_with_conditions(
    tmp_path: Path, toy: str, conditions: int, name: str
) -> None:
    last = trained(tmp_path / "run", toy, "ict", steps=10)["last"]
    assert len(last["by_condition"]) == conditions
    if conditions:
        each = [row[name] for row in last["by_condition"].values()]
        assert last["distances"]["1 step"][name] == pytest.approx(sum(each) / len(each))
    else:
        assert name in last["distances"]["1 step"]


@pytest.mark.parametrize("stop", [5, 10, 15])
def test_a_resumed_run_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: Any, stop: int
) -> None:
    """Stopped in the teacher's phase, at its end, or in the student's."""
    monkeypatch.setattr(ToyTask, "draw", lambda self, run, evaluations: run.path)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(config("three_gmm", "scd", straight), [])
    with killed_after(stop):
        train(config("three_gmm", "scd", stopped, checkpoint_every=stop), [])
    train(ToyConfig(resume=str(stopped)), [f"resume={stopped}"])
    mine, end = modules(stopped), modules(straight)
    assert mine.keys() == end.keys()
    assert all(torch.equal(mine[key], end[key]) for key in end)


def test_the_teacher_of_another_run_is_distilled(tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(config("three_gmm", "scd", first), [])
    task = ToyTask(config("three_gmm", "scd", teacher=str(first)), CPU)
    state = modules(first)
    for name, tensor in task.learner.teacher.state_dict().items():
        assert torch.equal(tensor, state[f"teacher.{name}"])
    assert task.learner.teacher_steps == 0
    for wrong in ({"toy": "two_gmm"}, {"hidden": [8]}, {"sigma_max": 20.0}, {"seed": 3}):
        other = dataclasses.replace(config("three_gmm", "scd", teacher=str(first)), **wrong)
        with pytest.raises(InputError, match="use its settings"):
            ToyTask(other, CPU)


@pytest.mark.parametrize("toy", ["two_gmm", "bandit"])
def test_evaluation_leaves_the_global_generator_alone(toy: str) -> None:
    task = make_toy_task(config(toy, "sct"), CPU)
    state = torch.get_rng_state()
    assert task.evaluate(0) == task.evaluate(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "overrides",
    [
        {"hidden": []},
        {"eta": -1.0},
        {"sigma_min": 1.0, "sigma_max": 0.5},
        {"steps": 0},
        {"precision": "bf16"},
        {"loss": LossConfig("edm")},
        {"loss": LossConfig("cd", perceptual=True)},
    ],
    ids=str,
)
def test_values_that_do_not_fit_are_refused(overrides: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"need|must be|fp32|toys have none"):
        dataclasses.replace(config("two_gmm", "sct"), **overrides)


def test_a_bandit_run(tmp_path: Path) -> None:
    last = trained(tmp_path / "run", "bandit", "ict")["last"]
    assert last.keys() >= {"mean_reward", "mass", "behaviour_mass", "best_mode"}
    assert sum(last["mass"]) == pytest.approx(1.0)
    assert (tmp_path / "run" / "policy.safetensors").is_file()


@pytest.mark.parametrize(
    ("toy", "loss", "said"),
    [
        ("three_gnm", "sct", "three_gmm"),
        ("bandit", "scd", "needs a teacher, and a bandit's actor has none"),
        ("bandit", "cd", "needs a teacher, and a bandit's actor has none"),
    ],
)
def test_wrong_toys_are_refused(toy: str, loss: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        train(config(toy, loss), [])
