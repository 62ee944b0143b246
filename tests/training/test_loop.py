"""The loop, with a learner of one number: what happens when, what a kill leaves."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cmpolicy.errors import InputError
from cmpolicy.training.interruption import Interrupted
from cmpolicy.training.loggers import TensorBoardLogger
from cmpolicy.training.loop import (
    DivergedError,
    Evaluation,
    Schedule,
    TrainingLoop,
)
from cmpolicy.training.protocols import EvaluationFailed
from cmpolicy.training.run_directory import RunDirectory

Compare = Callable[[Path, Path], None]
SCHEDULE = Schedule(steps=30, batch_size=4, log_every=4, eval_every=6, checkpoint_every=5)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class Learner:
    """A random walk: every update depends on all draws before it."""

    def __init__(self, signal_at: int | None = None, signum: int = signal.SIGTERM) -> None:
        self.weight = torch.zeros(())
        self.updates = 0
        self.signal_at, self.signum = signal_at, signum

    def update(self, batch: Tensor) -> dict[str, Tensor]:
        self.weight = torch.sin(self.weight + batch.mean() + 0.1 * torch.randn(()))
        self.updates += 1
        if self.updates == self.signal_at:
            os.kill(os.getpid(), self.signum)
        return {"loss": self.weight.square()}

    def limits(self) -> dict[str, tuple[float, str]]:
        return {"height": (3.0, "as high as the tower; try to climb less")}

    def training_state(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self.weight = state["weight"]


class Dataset:
    def sample(self, batch_size: int) -> Tensor:
        return torch.randn(batch_size)


def make(
    path: Path, learner: Learner, schedule: Schedule = SCHEDULE, **options: Any
) -> TrainingLoop:
    def evaluate(step: int) -> Evaluation:
        score = float(learner.weight)
        return Evaluation(step, score, {"eval/score": score})

    run = RunDirectory(path)
    if not run.config_path.exists():
        run.create("")
    evaluate = options.pop("evaluate", evaluate)
    return TrainingLoop(learner, Dataset(), evaluate, run, schedule, progress_bar=False, **options)


def resume(
    path: Path, learner: Learner | None = None, schedule: Schedule = SCHEDULE
) -> TrainingLoop:
    """Another process: its random numbers are elsewhere, unless nothing has happened yet."""
    loop = make(path, learner or Learner(), schedule)
    torch.manual_seed(12345 if loop.run.has_checkpoint() else 0)
    loop.restore()
    loop.train()
    return loop


def table(run: RunDirectory) -> list[dict[str, str]]:
    """metrics.csv without what a clock measured."""
    return [
        {k: v for k, v in row.items() if not k.startswith("time/")} for row in run.read_metrics()
    ]


@pytest.fixture
def uninterrupted(tmp_path: Path) -> TrainingLoop:
    loop = make(tmp_path / "whole", Learner())
    loop.train()
    torch.manual_seed(0)
    return loop


def test_several_updates_at_once_change_nothing(
    uninterrupted: TrainingLoop, tmp_path: Path, assert_equal_runs: Compare
) -> None:
    """Nothing that is due is stepped over, and no more is done than asked for."""
    learner, dataset, asked = Learner(), Dataset(), []

    def advance(most: int) -> tuple[int, Mapping[str, Tensor]]:
        asked.append(most)
        count = min(most, 3)
        return count, [learner.update(dataset.sample(4)) for _ in range(count)][-1]

    loop = make(tmp_path / "together", learner, advance=advance)
    loop.train()
    assert learner.updates == loop.step == 30
    assert asked[:4] == [4, 1, 1, 1]  # a log after 4, a checkpoint after 5, an evaluation after 6
    assert_equal_runs(uninterrupted.run.path, loop.run.path)


# What happens when ----------------------------------------------------------------------------


def test_a_run_does_all_its_updates_and_logs_when_due(tmp_path: Path) -> None:
    heard: list[int] = []
    loop = make(tmp_path, Learner(), on_evaluation=lambda e, speed: heard.append(len(e)))
    loop.train()
    assert loop.learner.updates == loop.step == 30
    rows = table(loop.run)
    logged = [int(r["step"]) for r in rows if r["loss"]]
    evaluated = [int(r["step"]) for r in rows if r["eval/score"]]
    assert logged == [4, 8, 12, 16, 20, 24, 28]
    assert evaluated == [6, 12, 18, 24, 30]
    assert [e.step for e in loop.evaluations] == evaluated
    assert heard == [1, 2, 3, 4, 5]
    steps = [int(r["step"]) for r in rows]
    assert steps == sorted(set(steps))
    speeds = [float(r["time/updates_per_second"]) for r in loop.run.read_metrics() if r["loss"]]
    assert all(speed > 0 for speed in speeds)
    assert loop.updates_per_second > 0


def test_the_end_is_evaluated_and_saved_even_if_nothing_is_due(tmp_path: Path) -> None:
    loop = make(tmp_path, Learner(), Schedule(7, 4, 100, 100, 100))
    assert [e.step for e in loop.train()] == [7]
    assert loop.run.load_checkpoint("last")["step"] == 7
    assert loop.run.load_checkpoint("best")["step"] == 7


def test_a_milestone_is_evaluated_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: TrainingLoop
) -> None:
    loop = make(tmp_path, Learner(), Schedule(30, 4, 4, 12, 10, milestone=13))
    saved: list[int] = []
    save = loop.save_last
    monkeypatch.setattr(loop, "save_last", lambda: (saved.append(loop.step), save()))
    assert [e.step for e in loop.train()] == [12, 13, 24, 30]
    assert saved == [0, 10, 12, 13, 20, 24, 30, 30]  # at the end with the evaluation
    assert torch.equal(loop.learner.weight, uninterrupted.learner.weight)


@pytest.mark.parametrize("at", [6, 18, 30])
def test_best_is_the_highest_evaluation(tmp_path: Path, at: int) -> None:
    learner, weights = Learner(), {}

    def evaluate(step: int) -> Evaluation:
        weights[step] = learner.weight.clone()
        return Evaluation(step, -abs(step - at), {})

    run = make(tmp_path, learner, evaluate=evaluate)
    run.train()
    state = run.run.load_checkpoint("best")
    assert state["step"] == at
    assert torch.equal(state["learner"]["weight"], weights[at])
    assert run.run.load_checkpoint("last")["step"] == 30


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("bad", "best"), [([6], 12), ([18], 6), ([6, 12, 18, 24, 30], 30)])
def test_a_score_that_is_not_finite_is_reported_and_never_the_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: float, bad: list[int], best: int
) -> None:
    def evaluate(step: int) -> Evaluation:
        score = value if step in bad else -float(step)
        return Evaluation(step, score, {"eval/score": score})

    loop = make(tmp_path, Learner(), evaluate=evaluate)
    with caplog.at_level(logging.WARNING, "cmpolicy"):
        loop.train()
    assert loop.run.load_checkpoint("best")["step"] == best
    warned = [r.getMessage().split(":")[0] for r in caplog.records]
    assert warned == [f"the score at step {step} is {value}" for step in bad]
    assert [r["eval/score"] for r in table(loop.run) if r["step"] == str(bad[0])] == [str(value)]
    assert [e.step for e in resume(tmp_path).evaluations] == [6, 12, 18, 24, 30]


@pytest.mark.parametrize("every", [1, 7, 1000])
def test_how_often_it_evaluates_saves_and_logs_changes_nothing(
    tmp_path: Path, every: int, uninterrupted: TrainingLoop
) -> None:
    for schedule in (Schedule(30, 4, every, 6, 5), Schedule(30, 4, 4, every, every)):
        torch.manual_seed(0)
        loop = make(tmp_path / str(schedule), Learner(), schedule)
        loop.train()
        assert torch.equal(loop.learner.weight, uninterrupted.learner.weight)


def test_an_evaluation_that_seeds_torch_changes_nothing(
    tmp_path: Path, uninterrupted: TrainingLoop
) -> None:
    """As an environment made of a network may do in its reset."""
    learner = Learner()

    def evaluate(step: int) -> Evaluation:
        torch.manual_seed(7)
        torch.randn(3)
        return Evaluation(step, 0.0, {})

    make(tmp_path / "other", learner, evaluate=evaluate).train()
    assert torch.equal(learner.weight, uninterrupted.learner.weight)


def test_evaluations_may_fail_as_often_in_succession_as_is_tolerated(tmp_path: Path) -> None:
    fails = {6: True, 12: True, 18: False, 24: True, 30: True}

    def evaluate(step: int) -> Evaluation:
        if fails[step]:
            raise EvaluationFailed("no road")
        return Evaluation(step, 1.0, {"eval/score": 1.0})

    tolerant = replace(SCHEDULE, tolerated_failures=2)
    loop = make(tmp_path / "tolerant", Learner(), tolerant, evaluate=evaluate)
    assert [e.failed for e in loop.train()] == list(fails.values())
    assert loop.run.load_checkpoint("best")["step"] == 18
    torch.manual_seed(0)
    strict = make(
        tmp_path / "strict", Learner(), replace(SCHEDULE, tolerated_failures=1), evaluate=evaluate
    )
    with pytest.raises(EvaluationFailed, match="at step 12 failed: no road; 2 in succession"):
        strict.train()
    assert strict.run.load_checkpoint("last")["step"] == 12
    fails.update({12: False, 24: False})  # mended, it goes on with the evaluation that failed
    again = make(
        tmp_path / "strict", Learner(), replace(SCHEDULE, tolerated_failures=1), evaluate=evaluate
    )
    again.restore()
    assert [e.failed for e in again.train()] == [True, False, False, False, True]
    assert torch.equal(again.learner.weight, loop.learner.weight)


def test_what_fails_between_updates_costs_none(tmp_path: Path) -> None:
    loop = make(tmp_path, Learner())

    def sample(batch_size: int) -> Tensor:
        if loop.step == 9:
            raise EvaluationFailed("no road")
        return torch.randn(batch_size)

    loop.dataset.sample = sample  # type: ignore[method-assign]
    with pytest.raises(EvaluationFailed, match=r"no road\. No update is lost; to go on: python"):
        loop.train()
    assert loop.run.load_checkpoint("last")["step"] == 9


def diverging(value: float, name: str, after: int) -> Learner:
    """A learner whose scalar `name` is `value` from the update after `after` on."""
    learner = Learner()
    update = learner.update

    def diverge(batch: Tensor) -> dict[str, Tensor]:
        metrics = update(batch)
        return {**metrics, name: torch.tensor(value)} if learner.updates > after else metrics

    learner.update = diverge  # type: ignore[method-assign]
    return learner


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_learner_that_diverged_stops_at_its_last_finite_state(
    tmp_path: Path, value: float
) -> None:
    loop = make(tmp_path, diverging(value, "loss", 12))
    with pytest.raises(DivergedError, match=f"diverged: loss is {value} at step") as error:
        loop.train()
    assert "\n" not in str(error.value)
    assert loop.run.load_checkpoint("last")["step"] == 12
    assert [int(row["step"]) for row in table(loop.run)] == [4, 6, 8, 12]


@pytest.mark.parametrize("height", [3.0, 3.1, -3.1])
def test_a_learner_beyond_its_limit_stops_before_anything_is_saved(
    tmp_path: Path, height: float
) -> None:
    loop = make(tmp_path, diverging(height, "height", 12))
    if abs(height) == 3.0:
        assert loop.train()[-1].step == 30
        return
    with pytest.raises(DivergedError) as error:
        loop.train()
    assert str(error.value) == (
        f"training diverged: height is {height} at step 15, its limit 3; the last state before is "
        f"{tmp_path / 'checkpoints' / 'last.safetensors'}; as high as the tower; try to climb less"
    )
    assert loop.run.load_checkpoint("last")["step"] == 12


# Stopped and killed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "signum"),
    [(at, signal.SIGTERM) for at in (1, 5, 6, 17, 30)] + [(12, signal.SIGINT)],
)
def test_a_signal_stops_with_a_checkpoint_and_the_run_goes_on_bit_for_bit(
    tmp_path: Path,
    at: int,
    signum: signal.Signals,
    uninterrupted: TrainingLoop,
    assert_equal_runs: Compare,
) -> None:
    loop = make(tmp_path / "cut", Learner(at, signum))
    with pytest.raises(Interrupted) as stopped:
        loop.train()
    assert stopped.value.signum == signum
    assert str(stopped.value) == (
        f"stopped at step {at} of 30; to go on: python -m cmpolicy.train resume={tmp_path / 'cut'}"
    )
    assert loop.run.load_checkpoint("last")["step"] == at
    assert [e.step for e in loop.evaluations] == list(range(6, at, 6))
    assert_equal_runs(resume(tmp_path / "cut").run.path, uninterrupted.run.path)


def test_a_run_may_be_stopped_again_and_again(
    tmp_path: Path, uninterrupted: TrainingLoop, assert_equal_runs: Compare
) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path / "cut", Learner(3)).train()
    for _ in range(8):
        with pytest.raises(Interrupted):
            resume(tmp_path / "cut", Learner(3))
    assert_equal_runs(resume(tmp_path / "cut").run.path, uninterrupted.run.path)


def test_a_signal_in_an_evaluation_is_heard_at_once(
    tmp_path: Path, uninterrupted: TrainingLoop, assert_equal_runs: Compare
) -> None:
    """The checkpoint of the same step is there already; the run begins with the evaluation."""
    saved: list[int] = []

    def evaluate(step: int) -> Evaluation:
        if step == 12:
            saved.append(loop.run.load_checkpoint("last")["step"])
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        score = float(loop.learner.weight)
        return Evaluation(step, score, {"eval/score": score})

    loop = make(tmp_path / "cut", Learner(), Schedule(30, 4, 4, 6, 6), evaluate=evaluate)
    begin = time.monotonic()
    with pytest.raises(Interrupted, match="stopped at step 12 of 30"):
        loop.train()
    assert time.monotonic() - begin < 20
    assert saved == [12]
    assert [e.step for e in loop.evaluations] == [6]
    assert_equal_runs(resume(tmp_path / "cut").run.path, uninterrupted.run.path)


class Killed(BaseException):
    """The process is gone."""


def close_event_files(run: RunDirectory) -> None:
    """What the end of a process does."""
    for logger in run.logs:
        if isinstance(logger, TensorBoardLogger):
            logger.close()


def killed_at(write: int, *, after: bool) -> Callable[[Path, Path], None]:
    """What stands for os.replace in a process that ends at a rename, before or after it."""
    replace, count = os.replace, 0

    def deadly(old: Path, new: Path) -> None:
        nonlocal count
        count += 1
        if count < write or (after and count == write):
            replace(old, new)
        if count >= write:
            raise Killed

    return deadly


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", [*range(1, 12), *range(13, 34, 3)])
def test_killed_at_any_write_it_goes_on_bit_for_bit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: int,
    after: bool,
    uninterrupted: TrainingLoop,
    assert_equal_runs: Compare,
) -> None:
    loop = make(tmp_path / "cut", Learner())
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed_at(write, after=after))
        try:
            loop.train()
        except Killed:
            close_event_files(loop.run)
    assert_equal_runs(resume(tmp_path / "cut").run.path, uninterrupted.run.path)


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    uninterrupted: TrainingLoop,
    assert_equal_runs: Compare,
) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path / "cut", Learner(13)).train()
    run = RunDirectory(tmp_path / "cut")
    run.checkpoint_path("last").write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING, "cmpolicy"), pytest.raises(Interrupted):
        resume(run.path, Learner(2))
    [record] = caplog.records
    assert "last.safetensors is damaged" in record.getMessage()
    assert f"using the checkpoint before it, {run.checkpoint_path('previous')}" in record.message
    run.checkpoint_path("last").write_bytes(b"damaged")  # the one before it is still the good one
    assert_equal_runs(resume(run.path).run.path, uninterrupted.run.path)
    for name in ("last", "previous"):
        run.checkpoint_path(name).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"previous\.safetensors is damaged"):
        resume(run.path)


@pytest.mark.parametrize("state", [{}, {"learner": 3}, {"learner": {}, "step": "many"}])
def test_a_state_of_something_else_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    loop = make(tmp_path, Learner())
    loop.run.save_checkpoint("last", state)
    with pytest.raises(InputError, match=r"last\.safetensors holds no state of such a run"):
        loop.restore()


def test_a_finished_run_resumed_does_nothing_more(
    uninterrupted: TrainingLoop, assert_equal_runs: Compare
) -> None:
    learner = Learner()
    loop = resume(uninterrupted.run.path, learner)
    assert learner.updates == 0
    assert_equal_runs(loop.run.path, uninterrupted.run.path)


def test_a_finished_run_may_be_made_longer(tmp_path: Path, uninterrupted: TrainingLoop) -> None:
    longer = Schedule(45, 4, 4, 6, 5)
    loop = resume(uninterrupted.run.path, schedule=longer)
    torch.manual_seed(0)
    whole = make(tmp_path / "longer", Learner(), longer)
    whole.train()
    assert torch.equal(loop.learner.weight, whole.learner.weight)
    assert table(loop.run) == table(whole.run)
    assert loop.evaluations == whole.evaluations
