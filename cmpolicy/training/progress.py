"""How far a run is: a bar in a terminal, otherwise a line an evaluation."""

from __future__ import annotations

import datetime
import logging
import sys
import time
from typing import ClassVar, Self

from tqdm import tqdm

log = logging.getLogger("cmpolicy")


class Progress:
    """Shows the updates done, and the last score; a context that closes the bar.

    Args:
        steps, step: all updates of the run, and those done.
        shown: whether it shows anything.

    Attributes:
        bars: false where several runs share a terminal; they write lines.
    """

    bars: ClassVar[bool] = True

    def __init__(self, steps: int, step: int, shown: bool) -> None:
        bar = shown and self.bars and sys.stderr.isatty()
        self.steps, self.first, self.step, self.lines = steps, step, step, shown and not bar
        self.begin = time.perf_counter()
        self.bar = tqdm(
            total=steps, initial=step, unit="update", desc="training", dynamic_ncols=True,
            smoothing=0.05, mininterval=0.5, file=sys.stderr, disable=not bar,
        )  # fmt: skip

    def update(self, done: int) -> None:
        """So many updates more are done."""
        self.step += done
        self.bar.update(done)

    def evaluated(self, score: float) -> None:
        """Show a score."""
        self.bar.set_postfix_str(f"score {score:.1f}")
        if not self.lines:
            return
        each = (time.perf_counter() - self.begin) / max(1, self.step - self.first)
        left = datetime.timedelta(seconds=round(each * (self.steps - self.step)))
        share = self.step / self.steps
        log.info("step %d (%.0f%%): score %.2f, %s left", self.step, 100 * share, score, left)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
