"""The loop of several seeds, each a random walk: what each seed's run holds, what a kill leaves."""

from __future__ import annotations

import os
import re
import signal
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cmpolicy.acceleration.stacked_seeds_loop import StackedSeedsLoop, over_seeds
from cmpolicy.training.interruption import Interrupted
from cmpolicy.training.loggers import TensorBoardLogger
from cmpolicy.training.loop import DivergedError, Evaluation, Schedule, TrainingLoop
from cmpolicy.training.random_state import OwnRandomState
from cmpolicy.training.run_directory import RunDirectory

Compare = Callable[[StackedSeedsLoop, list[TrainingLoop]], None]
SCHEDULE = Schedule(steps=30, batch_size=4, log_every=4, eval_every=6, checkpoint_every=5)
SEEDS = (3, 0, 8)


class Walker:
    """One seed's share: a number, a view into that of all."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def update(self, batch: Tensor) -> dict[str, Tensor]:
        self.weight.copy_(torch.sin(self.weight + batch.mean()))
        return {"loss": self.weight.square()}

    def limits(self) -> dict[str, tuple[float, str]]:
        return {}

    def training_state(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self.weight.copy_(state["weight"])


class Walkers:
    """All of them."""

    def __init__(self, seeds: int) -> None:
        self.weights = torch.zeros(seeds)
        self.each = [Walker(weight) for weight in self.weights.unbind()]
        self.updates = 0
        self.signal_at: int | None = None
        self.diverges: tuple[int, int] | None = None

    def update(self, batch: Tensor) -> dict[str, Tensor]:
        self.updates += 1
        losses = [w.update(part)["loss"] for w, part in zip(self.each, batch, strict=True)]
        loss = torch.stack(losses)
        if self.diverges is not None and self.updates >= self.diverges[0]:
            loss[self.diverges[1]] = float("nan")
        if self.updates == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": loss}

    def limits(self) -> dict[str, tuple[float, str]]:
        return {}

    def training_state(self) -> dict[str, Any]:
        return {"agents": [walker.training_state() for walker in self.each]}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        for walker, own in zip(self.each, state["agents"], strict=True):
            walker.load_training_state(own)


class Draws:
    """A batch for each seed, from its own generator; one seed's alone has no axis of seeds."""

    def __init__(self, states: Sequence[OwnRandomState]) -> None:
        self.states = states

    def sample(self, batch_size: int) -> Tensor:
        return torch.stack([torch.randn(batch_size, generator=s.generator) for s in self.states])


def states_of(seeds: Sequence[int]) -> list[OwnRandomState]:
    states = []
    for seed in seeds:
        torch.manual_seed(seed)
        states.append(OwnRandomState(torch.device("cpu")))
    return states


def part(
    path: Path, walker: Walker, state: OwnRandomState, dataset: Any, schedule: Schedule
) -> TrainingLoop:
    def evaluate(step: int) -> Evaluation:
        score = float(walker.weight)
        return Evaluation(step, score, {"eval/score": score})

    run, options = RunDirectory(path), {"progress_bar": False, "random_state": state}
    run.write_config("")
    return TrainingLoop(walker, dataset, evaluate, run, schedule, **options)


def make(path: Path, schedule: Schedule = SCHEDULE, **kwargs: Any) -> StackedSeedsLoop:
    learner, states = Walkers(len(SEEDS)), states_of(SEEDS)
    loops = [
        part(path / f"seed-{seed}", walker, state, None, schedule)
        for seed, walker, state in zip(SEEDS, learner.each, states, strict=True)
    ]
    run = RunDirectory(path)
    run.write_config("")
    kwargs = {"progress_bar": False, **kwargs}

    def evaluate(step: int) -> list[Evaluation]:
        return [loop.evaluate(step) for loop in loops]

    return StackedSeedsLoop(learner, Draws(states), evaluate, loops, run, schedule, **kwargs)


def resume(path: Path, schedule: Schedule = SCHEDULE) -> StackedSeedsLoop:
    loop = make(path, schedule)
    loop.restore()
    loop.train()
    return loop


def alone(path: Path, seed: int) -> TrainingLoop:
    """The same walk by itself, with the loop of one seed."""
    [state] = states_of([seed])

    class Single(Draws):
        def sample(self, batch_size: int) -> Tensor:
            return super().sample(batch_size)[0]

    loop = part(path, Walker(torch.zeros(())), state, Single([state]), SCHEDULE)
    loop.restore()
    loop.train()
    return loop


@pytest.fixture
def singles(tmp_path: Path) -> list[TrainingLoop]:
    return [alone(tmp_path / f"alone-{seed}", seed) for seed in SEEDS]


@pytest.fixture
def assert_equal_to(assert_equal_runs: Any) -> Compare:
    """assert_equal_to(loop, singles): each seed has the run of the loop that has it alone."""

    def compare(loop: StackedSeedsLoop, singles: list[TrainingLoop]) -> None:
        for mine, single in zip(loop.seeds, singles, strict=True):
            assert_equal_runs(mine.run.path, single.run.path)
        rows = zip(*(single.evaluations for single in singles), strict=True)
        assert loop.evaluations == [over_seeds(row) for row in rows]

    return compare


def test_each_seed_has_the_run_that_it_would_have_alone(
    tmp_path: Path, singles: list[TrainingLoop], assert_equal_to: Compare
) -> None:
    heard: list[list[int]] = []
    loop = make(
        tmp_path / "seeds", on_evaluation=lambda e, speed: heard.append([x.step for x in e])
    )
    loop.train()
    assert_equal_to(loop, singles)
    assert heard[-1] == [6, 12, 18, 24, 30]
    assert loop.updates_per_second > 0
    files = {str(p.relative_to(loop.run.path)) for p in loop.run.path.glob("*")}
    assert files == {"config.yaml", "checkpoints", "seed-3", "seed-0", "seed-8"}


def test_a_seed_of_several_goes_on_alone(
    tmp_path: Path, singles: list[TrainingLoop], assert_equal_runs: Any
) -> None:
    loop = make(tmp_path / "seeds")
    loop.learner.signal_at = 13  # type: ignore[attr-defined]
    with pytest.raises(Interrupted, match=re.escape(f"resume={tmp_path / 'seeds'}")):
        loop.train()
    assert_equal_runs(alone(tmp_path / "seeds" / "seed-0", 0).run.path, singles[1].run.path)


@pytest.mark.parametrize("at", [1, 6, 17, 30])
def test_a_signal_stops_all_and_they_go_on_bit_for_bit(
    tmp_path: Path, at: int, singles: list[TrainingLoop], assert_equal_to: Compare
) -> None:
    loop = make(tmp_path / "cut")
    loop.learner.signal_at = at  # type: ignore[attr-defined]
    with pytest.raises(Interrupted):
        loop.train()
    assert {part.run.load_checkpoint("last")["step"] for part in loop.seeds} == {at}
    assert_equal_to(resume(tmp_path / "cut"), singles)


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("write", [*range(4, 40, 5), 60, 80, 100])
def test_killed_at_any_write_they_go_on_bit_for_bit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: int,
    singles: list[TrainingLoop],
    assert_equal_to: Compare,
) -> None:
    """Some of the seeds' files are then newer than those of others."""
    replace, count = os.replace, 0

    def deadly(old: Path, new: Path) -> None:
        nonlocal count
        count += 1
        if count >= write:
            raise Killed
        replace(old, new)

    loop = make(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", deadly)
        try:
            loop.train()
        except Killed:
            for logger in (logger for seed in loop.seeds for logger in seed.run.logs):
                if isinstance(logger, TensorBoardLogger):
                    logger.close()
    assert_equal_to(resume(tmp_path / "cut"), singles)


def test_finished_runs_are_made_longer_together(tmp_path: Path, assert_equal_to: Compare) -> None:
    make(tmp_path / "cut").train()
    longer = Schedule(45, 4, 4, 6, 5)
    loop, whole = resume(tmp_path / "cut", longer), make(tmp_path / "whole", longer)
    whole.train()
    assert_equal_to(loop, whole.seeds)


def test_a_seed_that_diverges_is_named_and_the_others_can_go_on(
    tmp_path: Path, singles: list[TrainingLoop], assert_equal_runs: Any
) -> None:
    loop = make(tmp_path / "seeds")
    loop.learner.diverges = (13, 2)  # type: ignore[attr-defined]
    with pytest.raises(DivergedError) as error:
        loop.train()
    message = str(error.value)
    assert message.startswith("seed-8: training diverged: loss is nan at step 15; the last state")
    assert str(loop.seeds[2].run.checkpoint_path("last")) in message
    assert f"resume={tmp_path / 'seeds'}/seed-N" in message
    assert "\n" not in message
    assert {part.run.load_checkpoint("last")["step"] for part in loop.seeds} == {12}
    assert_equal_runs(alone(tmp_path / "seeds" / "seed-3", 3).run.path, singles[0].run.path)


def test_means_over_seeds() -> None:
    scores = [1.0, 4.0, 10.0]
    mean = over_seeds([Evaluation(6, s, {"eval/score": s, "eval/length": 2 * s}) for s in scores])
    assert (mean.step, mean.score) == (6, pytest.approx(5.0))
    error = statistics.stdev(scores) / 3**0.5
    assert mean.scalars == pytest.approx(
        {"eval/score": 5.0, "eval/length": 10.0, "eval/seed_standard_error": error}
    )
    assert over_seeds([Evaluation(6, 1.0, {})]).scalars == {"eval/seed_standard_error": 0.0}
