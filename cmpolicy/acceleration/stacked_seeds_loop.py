"""Several seeds in one loop: one learner updates all, each has a run of its own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cmpolicy.training.loop import DivergedError, Evaluation, OnEvaluation, Schedule, TrainingLoop
from cmpolicy.training.optimizer_log import OptimizerLog
from cmpolicy.training.protocols import Dataset, Learner
from cmpolicy.training.run_directory import RunDirectory


class StackedSeedsLoop(TrainingLoop):
    """The loop of R seeds that are updated together.

    Each seed has a `TrainingLoop` of its own, which never trains, for its agent, evaluations,
    random state and run directory. A seed can go on alone from its directory; all go on together
    from one file in `run`, which holds every seed after the same update.

    Args:
        learner: updates all seeds; its scalars are (R,), its training state lists those of the
            seeds under ``agents``.
        evaluate: gives an evaluation for each seed.
        seeds: the loops of the seeds.
        run: the directory above theirs.
        on_evaluation: called after each evaluation with the means over seeds.
    """

    def __init__(
        self,
        learner: Learner,
        dataset: Dataset,
        evaluate: Callable[[int], Sequence[Evaluation]],
        seeds: Sequence[TrainingLoop],
        run: RunDirectory,
        schedule: Schedule,
        *,
        on_evaluation: OnEvaluation | None = None,
        progress_bar: bool = True,
    ) -> None:
        super().__init__(
            learner,
            dataset,
            evaluate,
            run,
            schedule,
            on_evaluation=on_evaluation,
            progress_bar=progress_bar,
        )
        self.seeds = list(seeds)
        self.optimizer_log = OptimizerLog(learner, stacked=True)

    def state(self) -> dict[str, Any]:
        """What `load` needs, by seed."""
        return {"seeds": [loop.state() for loop in self.seeds]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        for loop, own in zip(self.seeds, state["seeds"], strict=True):
            loop.load(own)
        self.learner.load_training_state({"agents": [own["learner"] for own in state["seeds"]]})
        self.step, self.seconds = self.seeds[0].step, self.seeds[0].seconds
        rows = zip(*(loop.evaluations for loop in self.seeds), strict=True)
        self.evaluations = [over_seeds(row) for row in rows]

    def record(self, values: Mapping[str, Any], updates: int, seconds: float) -> None:
        """Pass each seed its scalars.

        Raises:
            DivergedError: if one seed has diverged; it ends the run of all.
        """
        self.seconds += seconds
        for i, loop in enumerate(self.seeds):
            loop.step = self.step
            try:
                loop.record({name: row[i] for name, row in values.items()}, updates, seconds)
            except DivergedError as error:
                raise DivergedError(
                    f"{loop.run.path.name}: {error}; the other seeds can go on alone, each with "
                    f"resume={self.run.path}/seed-N"
                ) from None

    def no_evaluation(self) -> list[Evaluation]:
        """Give what `evaluate` would, for an evaluation that failed."""
        return [super(StackedSeedsLoop, self).no_evaluation() for _ in self.seeds]

    def record_evaluation(self, evaluation: Sequence[Evaluation]) -> Evaluation:
        """Pass each seed its evaluation; return the means."""
        for loop, own in zip(self.seeds, evaluation, strict=True):
            loop.record_evaluation(own)
        self.evaluations.append(over_seeds(evaluation))
        if self.on_evaluation is not None:
            self.on_evaluation(self.evaluations, self.updates_per_second)
        return self.evaluations[-1]

    def save_last(self) -> None:
        """Write all seeds into one file, then each seed's: a kill in between parts no seeds."""
        state = self.state()
        for loop in self.seeds:
            loop.run.flush_metrics()
        self.run.save_checkpoint("last", state)
        for loop, own in zip(self.seeds, state["seeds"], strict=True):
            loop.run.save_checkpoint("last", own)
        self.saved_step = self.step

    def open_logs(self) -> None:
        """Begin the seeds' logs; their checkpoints may be from before a kill, or beyond it."""
        for loop in self.seeds:
            loop.open_logs()
            loop.run.save_checkpoint("last", loop.state())

    def close_logs(self) -> None:
        """End the seeds' logs."""
        for loop in self.seeds:
            loop.close_logs()


def over_seeds(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Means over seeds, and ``eval/seed_standard_error``, that of the mean score."""
    scalars = {
        name: statistics.fmean(e.scalars[name] for e in evaluations)
        for name in evaluations[0].scalars
    }
    scores = [e.score for e in evaluations]
    scalars["eval/seed_standard_error"] = standard_error(scores)
    failed = any(e.failed for e in evaluations)
    return Evaluation(evaluations[0].step, statistics.fmean(scores), scalars, failed)


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean; 0 for a single value, NaN where a value is not finite."""
    n = len(values)
    if not all(map(math.isfinite, values)):
        return math.nan
    return statistics.stdev(values) / n**0.5 if n > 1 else 0.0
