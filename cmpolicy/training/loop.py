"""The one loop: updates, logs, evaluations, checkpoints. It knows no domain."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from tqdm import tqdm

from cmpolicy.training.distributed import Ranks
from cmpolicy.training.interruption import Interrupted, InterruptionGuard
from cmpolicy.training.random_state import GlobalRandomState, RandomState
from cmpolicy.training.run_directory import RunDirectory


class Learner(Protocol):
    """What the loop trains."""

    def update(self, batch: Any, /) -> Mapping[str, torch.Tensor]:
        """One update; scalars stay on the device."""
        ...

    def limits(self) -> Mapping[str, tuple[float, str]]:
        """Scalars of `update` that must stay below a bound: (bound, what it is and what to try)."""
        ...

    def training_state(self) -> dict[str, Any]: ...

    def load_training_state(self, state: Mapping[str, Any], /) -> None: ...


class Dataset(Protocol):
    """What the loop draws batches from."""

    def sample(self, batch_size: int, /) -> Any: ...


@runtime_checkable
class GrowingDataset(Dataset, Protocol):
    """A dataset that changes during training, and what is saved of it."""

    def scalars(self) -> Mapping[str, float]:
        """What the log says of it."""
        ...

    def training_state(self) -> dict[str, Any]: ...

    def load_training_state(self, state: Mapping[str, Any], /) -> None: ...


class DivergedError(RuntimeError):
    """A loss or a value of the training is no longer a number, or beyond its limit."""


@dataclass(frozen=True)
class Evaluation:
    """How good a learner is.

    Attributes:
        step: the number of updates behind it.
        score: what `best` is chosen by, higher is better.
        scalars: everything measured, by name.
    """

    step: int
    score: float
    scalars: dict[str, float]


@dataclass(frozen=True)
class Schedule:
    """How long a run is, and what happens how often, counted in updates.

    At `milestone` the run is evaluated and saved as well.
    """

    steps: int
    batch_size: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    milestone: int | None = None


Evaluate = Callable[[int], Evaluation]
# Makes one update or more, at most as many as it is told; how many, and the last one's scalars.
Advance = Callable[[int], tuple[int, Mapping[str, torch.Tensor]]]
OnEvaluation = Callable[[list[Evaluation], float], None]


class TrainingLoop:
    """Runs a learner to the end of its schedule, from the start or from a checkpoint.

    The random numbers of an update come from torch's global generator, or from `random_state`,
    which is in the checkpoint; `evaluate` must not draw from it. So a resumed run ends in the
    same weights as an uninterrupted one, and how often it is evaluated changes nothing.

    Args:
        on_evaluation: called after each evaluation with all of them and the updates a second.
        advance: makes the updates; if not given, one after the other.
        ranks: the processes that do the same; all evaluate, and stop after the same update.
        random_state: whose state belongs to the run; torch's global generators if not given.
    """

    def __init__(
        self,
        learner: Learner,
        dataset: Dataset,
        evaluate: Evaluate,
        run: RunDirectory,
        schedule: Schedule,
        *,
        on_evaluation: OnEvaluation | None = None,
        advance: Advance | None = None,
        progress_bar: bool = True,
        ranks: Ranks = Ranks(),  # noqa: B008  # frozen
        random_state: RandomState | None = None,
    ) -> None:
        self.learner, self.dataset, self.evaluate = learner, dataset, evaluate
        self.run, self.schedule, self.ranks = run, schedule, ranks
        self.on_evaluation = on_evaluation
        self.advance = advance or self.update_once
        self.progress_bar = progress_bar
        self.random_state = random_state or GlobalRandomState(ranks)
        self.step = 0
        self.seconds = 0.0  # spent in updates, over all sittings
        self.evaluations: list[Evaluation] = []

    @property
    def updates_per_second(self) -> float:
        """Over the whole run, evaluations and checkpoints not counted."""
        return self.step / self.seconds if self.seconds else 0.0

    def restore(self) -> None:
        """Go on from checkpoints/last; a run killed before its first one begins again."""
        if not self.run.checkpoint_path("last").exists():
            return
        self.load(self.run.load_checkpoint("last"))

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, and a dataset that grows from what is beside it."""
        self.learner.load_training_state(state["learner"])
        if isinstance(self.dataset, GrowingDataset) and "dataset" in state:
            self.dataset.load_training_state(state["dataset"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.evaluations = [Evaluation(**e) for e in state["evaluations"]]
        self.random_state.load(state["rng"])

    def state(self) -> dict[str, Any]:
        """Everything that `load` needs, but for a dataset that grows."""
        return {
            "learner": self.learner.training_state(),
            "step": self.step,
            "seconds": self.seconds,
            "evaluations": [asdict(e) for e in self.evaluations],
            "rng": self.random_state.state(),
        }

    def train(self) -> list[Evaluation]:
        """Train to the end and return all evaluations.

        Raises:
            DivergedError: if a scalar becomes NaN or infinite, or passes the learner's limit.
            Interrupted: after SIGINT or SIGTERM, with the checkpoint written.
        """
        self.open_logs()
        if self.step == 0:
            self.run.save_checkpoint("last", self.state())
        bar = tqdm(
            total=self.schedule.steps,
            initial=self.step,
            unit="update",
            desc="training",
            dynamic_ncols=True,
            smoothing=0.05,
            mininterval=0.5,
            disable=not self.progress_bar,
            file=sys.stderr,
        )
        try:
            with InterruptionGuard() as guard, bar:
                while self.step < self.schedule.steps:
                    before = self.step
                    self.train_until(self.next_stop(), guard, bar)
                    if self.step > before:
                        self.after_updates(bar)
                    signum = self.ranks.largest(guard.signum)
                    if signum:
                        self.stop(signum)
        finally:
            self.close_logs()
        return self.evaluations

    def next_stop(self) -> int:
        """The next step at which something other than an update happens."""
        s = self.schedule
        return min(
            *(n for n in (s.steps, s.milestone) if n is not None and n > self.step),
            *((self.step // n + 1) * n for n in (s.log_every, s.eval_every, s.checkpoint_every)),
        )

    def train_until(self, stop: int, guard: InterruptionGuard, bar: Any) -> None:
        """Updates up to `stop`; the last one's scalars are logged if a log is due."""
        begin, first = time.perf_counter(), self.step
        metrics: Mapping[str, torch.Tensor] = {}
        while self.step < stop and not self.ranks.largest(guard.signum):
            done, metrics = self.advance(stop - self.step)
            self.step += done
            bar.update(done)
        values = {name: value.tolist() for name, value in metrics.items()}  # waits for the device
        self.record(values, self.step - first, time.perf_counter() - begin)

    def record(self, values: Mapping[str, Any], updates: int, seconds: float) -> None:
        """Count the seconds of some updates; check what the last gave, log it if that is due."""
        self.check_diverged(values)
        self.seconds += seconds
        if values and self.step % self.schedule.log_every == 0:
            grown = self.dataset.scalars() if isinstance(self.dataset, GrowingDataset) else {}
            speed = updates / seconds
            self.run.log(self.step, {**values, **grown, "time/updates_per_second": speed})

    def update_once(self, most: int) -> tuple[int, Mapping[str, torch.Tensor]]:
        """The plain `advance`."""
        return 1, self.learner.update(self.dataset.sample(self.schedule.batch_size))

    def check_diverged(self, scalars: Mapping[str, float]) -> None:
        """Raise DivergedError, before anything is saved, if a scalar is not what it may be."""
        limits = self.learner.limits()
        for name, value in scalars.items():
            bound, meaning = limits.get(name, (math.inf, ""))
            if math.isfinite(value) and abs(value) <= bound:
                continue
            limit = f", its limit {bound:.6g}" if name in limits else ""
            raise DivergedError(
                f"training diverged: {name} is {value:.6g} at step {self.step}{limit}; the last "
                f"state before is {self.run.checkpoint_path('last')}; "
                f"{meaning or 'try a smaller learning rate'}"
            )

    def after_updates(self, bar: Any) -> None:
        """Evaluate and save, where that is due."""
        due = self.step in (self.schedule.steps, self.schedule.milestone)
        if due or self.step % self.schedule.eval_every == 0:
            bar.set_postfix_str(f"score {self.assess().score:.1f}")
        if due or self.step % self.schedule.checkpoint_every == 0:
            self.save_last()

    def assess(self) -> Evaluation:
        """Evaluate, log, and keep the checkpoint if it is the best so far."""
        evaluation = self.evaluate(self.step)
        self.record_evaluation(evaluation)
        return evaluation

    def record_evaluation(self, evaluation: Evaluation) -> None:
        """What follows an evaluation."""
        self.evaluations.append(evaluation)
        self.run.log(self.step, evaluation.scalars)
        if evaluation.score >= max(e.score for e in self.evaluations):
            self.run.save_checkpoint("best", self.state())
        if self.on_evaluation is not None:
            self.on_evaluation(self.evaluations, self.updates_per_second)

    def open_logs(self) -> None:
        """Begin logging; what a killed run wrote beyond its checkpoint is dropped."""
        self.run.open_logs(self.step)

    def close_logs(self) -> None:
        """End logging."""
        self.run.close_logs()

    def save_last(self) -> None:
        """Metrics first: rows beyond a checkpoint are dropped later, those before must be there."""
        self.run.flush_metrics()
        state = self.state()
        if isinstance(self.dataset, GrowingDataset):
            state["dataset"] = self.dataset.training_state()
        self.run.save_checkpoint("last", state)

    def stop(self, signum: int) -> None:
        """Save and leave."""
        self.save_last()
        raise Interrupted(
            signum,
            f"stopped at step {self.step} of {self.schedule.steps}; to go on: "
            f"python -m cmpolicy.train resume={self.run.path}",
        )
