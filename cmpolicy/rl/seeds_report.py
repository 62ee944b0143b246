"""What is written of a run of several seeds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from cmpolicy.rl.seeds import OfflineRLSeeds
from cmpolicy.training.loop import Evaluation, TrainingLoop
from cmpolicy.training.report import Reporter, Results, history
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")


class SeedsReporter(Results):
    """Says at the end what came of every seed, and of all."""

    task: OfflineRLSeeds

    def __init__(
        self,
        task: OfflineRLSeeds,
        run: RunDirectory,
        computing: dict[str, str],
        parts: Sequence[tuple[TrainingLoop, Reporter]],
    ) -> None:
        super().__init__(task, run, computing)
        self.parts = list(parts)

    def progress(self, evaluations: list[Evaluation], speed: float) -> None:
        """After an evaluation of all seeds, which have reported their own; or before the first."""
        super().progress(evaluations, speed)
        for _, reporter in self.parts if not evaluations else ():
            reporter.progress([], speed)

    def finish(self, loop: TrainingLoop) -> float:
        """Evaluate all seeds at once, as `Reporter.finish` one; report each, then means."""
        last_scores = self.task.final_scores()
        steps = [reporter.load_best(part) for part, reporter in self.parts]
        same = all(step == loop.step for step in steps)
        best_scores = last_scores if same else self.task.final_scores()
        loop.restore()
        scores = zip(last_scores, best_scores, steps, strict=True)
        for seed, (part, reporter), own in zip(self.task.seeds, self.parts, scores, strict=True):
            log.info("seed %d", seed)
            reporter.report(part, *own)
        results = [reporter.run.read_results() for _, reporter in self.parts]
        last, best = (self.task.summary(results, name) for name in ("last", "best"))
        speed = loop.updates_per_second
        self.write(True, speed, last=last, best=best, **history(loop.evaluations))
        log.info("%d seeds, last checkpoints: %s", len(results), in_one_line(last))
        log.info("%d seeds, best checkpoints: %s", len(results), in_one_line(best))
        print(f"picture: {self.task.draw(self.run, loop.evaluations)}")
        print(f"run: {self.run.path}")
        return fmean(score.headline for score in last_scores)


def in_one_line(summary: dict[str, Any]) -> str:
    """What `OfflineRLSeeds.summary` gave: the mean and its standard error over seeds."""
    normalized = "normalized_score" in summary
    mean = summary["normalized_score" if normalized else "mean_return"]
    unit = "normalised score" if normalized else "return"
    return f"{unit} {mean:.1f} ± {summary['seed_standard_error']:.1f} over seeds"
