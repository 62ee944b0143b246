"""The one loop: updates, logs, evaluations, checkpoints. It knows no domain."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import torch

from cmpolicy.errors import InputError
from cmpolicy.training.distributed import Ranks
from cmpolicy.training.interruption import Interrupted, InterruptionGuard, StopSignal
from cmpolicy.training.optimizer_log import OptimizerLog
from cmpolicy.training.progress import Progress
from cmpolicy.training.protocols import Dataset, EvaluationFailed, GrowingDataset, Learner
from cmpolicy.training.random_state import GlobalRandomState, RandomState, preserved_random_state
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")


class DivergedError(RuntimeError):
    """A loss or a value of the training is no longer a number, or beyond its limit."""


@dataclass(frozen=True)
class Evaluation:
    """A score, higher is better, after `step` updates; `scalars` are all measurements by name.

    Where the evaluation `failed` there are none, and the score is −∞.
    """

    step: int
    score: float
    scalars: dict[str, float]
    failed: bool = False


@dataclass(frozen=True)
class Schedule:
    """Length and intervals of a run in updates; at `milestone` it is evaluated and saved too.

    As many evaluations in succession as `tolerated_failures` may fail; the next ends the run.
    """

    steps: int
    batch_size: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    milestone: int | None = None
    tolerated_failures: int = 0


# Performs at most the given number of updates: (how many, scalars of the last one).
Advance = Callable[[int], tuple[int, Mapping[str, torch.Tensor]]]
OnEvaluation = Callable[[list[Evaluation], float], None]


class TrainingLoop:
    """Trains a learner to the end of its schedule, from the start or from a checkpoint.

    The random numbers of an update come from torch's global generator, or from `random_state`.
    Their state is in the checkpoint, and no evaluation changes it. So a resumed run ends in the
    same weights as an uninterrupted one, however often both are evaluated.

    Args:
        evaluate: gives the evaluation after so many updates.
        on_evaluation: called after each evaluation with all of them and the updates per second.
        advance: performs the updates; one at a time if not given.
        ranks: the processes that train together; all evaluate and stop after the same update.
        random_state: the run's generators; torch's global ones if not given.
    """

    def __init__(
        self,
        learner: Learner,
        dataset: Dataset,
        evaluate: Callable[[int], Any],
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
        self.optimizer_log = OptimizerLog(learner)
        self.step = 0
        self.saved_step: int | None = None
        self.seconds = 0.0  # spent in updates, over all sittings
        self.evaluations: list[Evaluation] = []

    @property
    def updates_per_second(self) -> float:
        """Over the whole run, evaluations and checkpoints not counted."""
        return self.step / self.seconds if self.seconds else 0.0

    def restore(self) -> None:
        """Go on from the last checkpoint; a run killed before its first one begins again.

        Raises:
            InputError: if the checkpoint is damaged, and so is the one before it.
        """
        if not self.run.has_checkpoint():
            return
        try:
            self.load(self.run.load_checkpoint("last"))
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise InputError(
                f"{self.run.checkpoint_path('last')} holds no state of such a run: "
                f"{type(error).__name__} {error}"
            ) from error
        self.saved_step = self.step

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, and a growing dataset from what is saved with it."""
        self.learner.load_training_state(state["learner"])
        if isinstance(self.dataset, GrowingDataset) and "dataset" in state:
            self.dataset.load_training_state(state["dataset"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.evaluations = [Evaluation(**e) for e in state["evaluations"]]
        self.random_state.load(state["rng"])

    def state(self) -> dict[str, Any]:
        """Everything that `load` needs, except a growing dataset."""
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
            EvaluationFailed: for one more in succession than is tolerated.
            Interrupted: after SIGINT or SIGTERM, with the checkpoint written.
        """
        self.open_logs()
        bar = Progress(self.schedule.steps, self.step, self.progress_bar)
        try:
            with InterruptionGuard() as guard, bar:
                while True:
                    self.after_updates(guard, bar)
                    signum = self.ranks.largest(guard.signum)
                    if signum:
                        self.stop(signum)
                    if self.step >= self.schedule.steps:
                        return self.evaluations
                    self.train_until(self.next_stop(), guard, bar)
        finally:
            self.close_logs()

    def next_stop(self) -> int:
        """The next step at which something other than an update happens."""
        s = self.schedule
        return min(
            *(n for n in (s.steps, s.milestone) if n is not None and n > self.step),
            *((self.step // n + 1) * n for n in (s.log_every, s.eval_every, s.checkpoint_every)),
        )

    def train_until(self, stop: int, guard: InterruptionGuard, bar: Progress) -> None:
        """Updates up to `stop`; the last one's scalars are logged if a log is due."""
        begin, first = time.perf_counter(), self.step
        metrics: Mapping[str, torch.Tensor] = {}
        measured = self.optimizer_log.measures and stop % self.schedule.log_every == 0
        while self.step < stop and not self.ranks.largest(guard.signum):
            most = stop - self.step
            if measured and most == 1:
                self.optimizer_log.begin()
            try:
                done, metrics = self.advance(max(1, most - measured))  # the last one alone
            except EvaluationFailed as error:  # of a dataset that grows, before any update
                self.save_last()
                raise EvaluationFailed(
                    f"{error}. No update is lost; to go on: {self.run.resume_command}"
                ) from error
            self.step += done
            bar.update(done)
        if measured and self.step == stop:
            metrics = {**metrics, **self.optimizer_log.end()}
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
        """One update, whatever `most` allows."""
        return 1, self.learner.update(self.dataset.sample(self.schedule.batch_size))

    def check_diverged(self, scalars: Mapping[str, float]) -> None:
        """Raise DivergedError, before anything is saved, for a scalar beyond its limit."""
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

    def after_updates(self, guard: InterruptionGuard, bar: Progress) -> None:
        """Save and evaluate where that is due, in this order: a kill in between costs no update."""
        s = self.schedule
        evaluating = self.evaluation_is_due()
        due = evaluating or self.step == 0 or self.step % s.checkpoint_every == 0
        if due and self.saved_step != self.step:
            self.save_last()
        if not evaluating:
            return
        try:
            with guard.at_once(), preserved_random_state():
                evaluated = self.evaluate(self.step)
        except StopSignal:
            return  # resumed, the run begins with this evaluation
        except EvaluationFailed as error:
            evaluated = self.tolerated(error)
        evaluation = self.record_evaluation(evaluated)
        bar.evaluated(evaluation.score)
        if self.step == s.steps:
            self.save_last()

    def tolerated(self, error: EvaluationFailed) -> Any:
        """Give what counts as an evaluation that failed; raise if there were too many of them."""
        before = itertools.takewhile(lambda e: e.failed, reversed(self.evaluations))
        in_succession, most = 1 + sum(1 for _ in before), self.schedule.tolerated_failures
        if in_succession > most:
            raise EvaluationFailed(
                f"the evaluation at step {self.step} failed: {error}; {in_succession} in "
                f"succession, of which {most} are tolerated (eval.tolerated_failures). No update "
                f"is lost; to go on: {self.run.resume_command}"
            ) from error
        log.warning("the evaluation at step %d failed: %s", self.step, error)
        return self.no_evaluation()

    def no_evaluation(self) -> Any:
        """Give what `evaluate` would, for an evaluation that failed."""
        return Evaluation(self.step, -math.inf, {}, failed=True)

    def evaluation_is_due(self) -> bool:
        """Whether the learner is to be evaluated at this step, and has not been."""
        s = self.schedule
        due = self.step in (s.milestone, s.steps) or self.step % s.eval_every == 0
        evaluated = self.evaluations[-1].step if self.evaluations else 0
        return due and evaluated < self.step

    def record_evaluation(self, evaluation: Any) -> Evaluation:
        """Log what `evaluate` gave, and keep the checkpoint if its score is the best so far.

        A score that is not finite counts only until the first finite one.
        """
        assert isinstance(evaluation, Evaluation)
        self.evaluations.append(evaluation)
        self.run.log(self.step, evaluation.scalars)
        scores = [e.score for e in self.evaluations if math.isfinite(e.score)]
        if evaluation.scalars and not math.isfinite(evaluation.score):
            log.warning(
                "the score at step %d is %s: it is reported, and not compared for the best",
                self.step,
                evaluation.score,
            )
        if not scores or evaluation.score == max(scores):
            self.run.save_checkpoint("best", self.state())
        if self.on_evaluation is not None:
            self.on_evaluation(self.evaluations, self.updates_per_second)
        return evaluation

    def open_logs(self) -> None:
        """Begin logging; what a killed run wrote beyond its checkpoint is dropped."""
        self.run.open_logs(self.step)

    def close_logs(self) -> None:
        """End logging."""
        self.run.close_logs()

    def save_last(self) -> None:
        """Write the metrics, then the checkpoint: a resumed run drops only rows beyond it."""
        self.run.flush_metrics()
        state = self.state()
        if isinstance(self.dataset, GrowingDataset):
            state["dataset"] = self.dataset.training_state()
        self.run.save_checkpoint("last", state)
        self.saved_step = self.step

    def stop(self, signum: int) -> NoReturn:
        """Save and leave."""
        if self.saved_step != self.step:
            self.save_last()
        raise Interrupted(
            signum,
            f"stopped at step {self.step} of {self.schedule.steps}; to go on: "
            f"{self.run.resume_command}",
        )
