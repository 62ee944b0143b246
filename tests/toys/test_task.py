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
from cmpolicy.toys.bandit import BanditTask
from cmpolicy.toys.config import ToyConfig, ToyEvalConfig
from cmpolicy.toys.task import ToyTask
from cmpolicy.train import train
from cmpolicy.training.run_directory import RunDirectory

CPU = torch.device("cpu")


def config(toy: str, loss: str, run: Path | None = None, **overrides: Any) -> ToyConfig:
    distils = loss in ("cd", "scd")
    values: dict[str, Any] = {
        "toy": toy,
        "loss": LossConfig(loss, teacher_steps=10 if distils else 0),
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


def results(run: Path) -> Any:
    return json.loads((run / "results.json").read_text())


@pytest.mark.parametrize(("toy", "loss"), [("three_gmm_1D", "scd"), ("two_gmm", "sct")])
def test_a_run_in_one_dimension(tmp_path: Path, toy: str, loss: str) -> None:
    run = tmp_path / "run"
    train(config(toy, loss, run), [])
    found = results(run)
    assert found["finished"]
    samplers = ["1 step", "2 steps", "4 steps", "20 steps"]
    samplers += ["teacher, Heun"] if loss == "scd" else []
    assert list(found["last"]["distances"]) == samplers
    for row in found["last"]["distances"].values():
        assert row.keys() == {"w1", "kl", "kl_reverse", "std_ratio", "p_below_0"}
    assert [e["step"] for e in found["evaluations"]] == [10, 20]
    assert found["loss"]["name"] == loss
    Image.open(run / "panel.png").verify()
    assert load_config(RunDirectory.existing(run), ToyConfig).toy == toy  # type: ignore[union-attr]


@pytest.mark.parametrize("toy", ["two_moons", "three_gmm_label", "turning_eight_gaussians"])
def test_a_run_in_the_plane_or_with_a_condition(tmp_path: Path, toy: str) -> None:
    run = tmp_path / "run"
    train(config(toy, "ict", run, steps=10), [])
    last = results(run)["last"]
    conditions = {"two_moons": 0, "three_gmm_label": 3, "turning_eight_gaussians": 5}[toy]
    assert len(last["by_condition"]) == conditions
    name = "w1" if toy == "three_gmm_label" else "sliced_w2"
    value = last["distances"]["1 step"][name]
    if conditions:
        each = [row[name] for row in last["by_condition"].values()]
        assert value == pytest.approx(sum(each) / len(each))
    Image.open(run / "panel.png").verify()


def test_a_resumed_run_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the teacher's phase, at its end, and in the student's."""
    monkeypatch.setattr(ToyTask, "draw", lambda self, run, evaluations: run.path)
    straight = tmp_path / "straight"
    train(config("three_gmm", "scd", straight), [])
    end = RunDirectory(straight).load_checkpoint("last")["learner"]["modules"]
    for stop in (5, 10, 15):
        run = tmp_path / f"stopped-{stop}"
        task_config = config("three_gmm", "scd", run, checkpoint_every=stop)

        class Killed(Exception):
            pass

        saved = RunDirectory.save_checkpoint

        def save(
            self: RunDirectory, name: str, state: Any, stop: int = stop, saved: Any = saved
        ) -> None:
            saved(self, name, state)
            if name == "last" and state["step"] == stop:
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunDirectory, "save_checkpoint", save)
            with pytest.raises(Killed):
                train(task_config, [])
        train(ToyConfig(resume=str(run)), [f"resume={run}"])
        mine = RunDirectory(run).load_checkpoint("last")["learner"]["modules"]
        assert mine.keys() == end.keys()
        assert all(torch.equal(mine[key], end[key]) for key in end)


def test_a_teacher_of_another_run_is_distilled(tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(config("three_gmm", "scd", first), [])
    task = ToyTask(config("three_gmm", "scd", teacher=str(first)), CPU)
    state = RunDirectory(first).load_checkpoint("last")["learner"]["modules"]
    assert task.learner.teacher is not None
    for name, tensor in task.learner.teacher.state_dict().items():
        assert torch.equal(tensor, state[f"teacher.{name}"])
    assert task.learner.teacher_steps == 0
    for wrong in ({"toy": "two_gmm"}, {"hidden": [8]}, {"sigma_max": 20.0}, {"seed": 3}):
        other = dataclasses.replace(config("three_gmm", "scd", teacher=str(first)), **wrong)
        with pytest.raises(InputError, match="give these as they were"):
            ToyTask(other, CPU)


def test_evaluation_leaves_the_global_generator_alone() -> None:
    for task in (ToyTask(config("two_gmm", "sct"), CPU), BanditTask(config("bandit", "sct"), CPU)):
        state = torch.get_rng_state()
        first, second = task.evaluate(0), task.evaluate(0)
        assert first == second
        assert torch.equal(torch.get_rng_state(), state)


def test_what_a_resumed_toy_may_change(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config("two_gmm", "sct", run, steps=10), [])
    changed = resumed_config(run, ["eval.samples=700"], ToyConfig)
    assert changed.eval.samples == 700  # type: ignore[union-attr]
    with pytest.raises(InputError, match="toy cannot change"):
        resumed_config(run, ["toy=three_gmm"], ToyConfig)


@pytest.mark.parametrize(
    "overrides", [{"hidden": []}, {"eta": -1.0}, {"sigma_min": 1.0, "sigma_max": 0.5}, {"steps": 0}]
)
def test_values_out_of_range_are_refused(overrides: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"need|must be"):
        config("two_gmm", "sct", **overrides)


def test_an_unknown_toy_is_refused_with_the_list() -> None:
    with pytest.raises(InputError, match="three_gmm"):
        train(config("three_gnm", "sct"), [])


# The bandit --------------------------------------------------------------------------------------


def test_a_bandit_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config("bandit", "ict", run), [])
    found = results(run)
    assert found["last"].keys() >= {"mean_reward", "mass", "behaviour_mass", "best_mode"}
    assert sum(found["last"]["mass"]) == pytest.approx(1.0)
    Image.open(run / "panel.png").verify()
    assert (run / "policy.safetensors").is_file()


@pytest.mark.parametrize("loss", ["scd", "cd"])
def test_a_bandit_has_no_teacher(loss: str) -> None:
    with pytest.raises(InputError, match="trains on data alone"):
        train(config("bandit", loss), [])


def test_a_toy_is_not_compared_by_a_classifier() -> None:
    with pytest.raises(ValueError, match="a toy has none"):
        ToyConfig(loss=LossConfig("cd", teacher_steps=10, perceptual=True))
