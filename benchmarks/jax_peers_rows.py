"""Evaluation of published agents that jax_peers.py has trained, and their rows."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from offline_rl_rows import LAST_EVALUATIONS, Key, Row, instability_of
from peers.tanh_actor import load_actor

from cmpolicy.datasets import load_hdf5
from cmpolicy.datasets.reference_scores import normalized_score, reference_scores
from cmpolicy.datasets.transitions import DatasetInfo
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.rollout import roll_out
from cmpolicy.rl.score import Score, score_of
from cmpolicy.training.machine import cpu_name
from cmpolicy.training.report import PACKAGES

AVERAGED = "_averaged"
USUAL = ("discount", 0.99)


@dataclass(frozen=True)
class Run:
    """A set, a peer with its settings, and a seed."""

    file: Path
    peer: str
    settings: dict[str, float]
    seed: int

    @property
    def key(self) -> Key:
        """The place of the plain actor's row; settings are named but for a discount of 0.99."""
        named = [f"_{n}={value}" for n, value in self.settings.items() if (n, value) != USUAL]
        return Key(self.file.stem, f"jax_{self.peer}{''.join(named)}", self.seed)

    def keys(self) -> list[Key]:
        """Of both rows: the actor's, and its average's."""
        return [self.key, self.key._replace(agent=self.key.agent + AVERAGED)]


class Evaluated(NamedTuple):
    """Scores of an actor: by step, of the last checkpoint again, and of the best again."""

    curve: dict[int, Score]
    last: Score
    best_step: int
    best: Score


def evaluate(
    number: int,
    run: Run,
    files: Mapping[int, Path],
    episodes: tuple[int, int],
    evaluators: ProcessPoolExecutor,
) -> Evaluated:
    """Of one actor of every checkpoint.

    Args:
        number: of the actor in each file.
        run: whose environment and seed are taken.
        files: checkpoints by step.
        episodes: for each checkpoint, and for the last and the best once more. No two
            evaluations of a curve have the same starts.
        evaluators: where it is done.
    """
    env_id = environment_of(run.file)
    first = 10_000 * (run.seed + 1)

    def submitted(step: int, count: int, seed: int) -> Future[Score]:
        return evaluators.submit(score_of_actor, files[step], number, env_id, count, seed)

    jobs = {step: submitted(step, episodes[0], first + 100 * n) for n, step in enumerate(files)}
    curve = {step: job.result() for step, job in jobs.items()}
    best = max(curve, key=lambda step: curve[step].headline)
    again = [submitted(step, episodes[1], first + 5_000) for step in (max(curve), best)]
    return Evaluated(curve, again[0].result(), best, again[1].result())


def score_of_actor(path: Path, number: int, env_id: str, episodes: int, seed: int) -> Score:
    """Of an actor of a checkpoint, over so many starts."""
    rolled = roll_out(load_actor(path, number), Environment(env_id).make, episodes, seed)
    return score_of(rolled, reference_scores(env_id))


@cache
def info_of(file: Path) -> DatasetInfo:
    """What is known of a set."""
    return load_hdf5(file).info


def environment_of(file: Path) -> str:
    """Where a set was recorded.

    Raises:
        SystemExit: if it does not say so, or D4RL has no reference scores there.
    """
    env_id = info_of(file).env_id
    if env_id is None or reference_scores(env_id) is None:
        sys.exit(f"{file} names no environment that D4RL has reference scores of")
    return env_id


def row_of(
    key: Key,
    run: Run,
    trained: Mapping[str, Any],
    found: Evaluated,
    seconds: float,
    at_once: int,
) -> Row:
    """The row of an actor; `trained` is what its training says of itself."""
    info, env_id = info_of(run.file), environment_of(run.file)
    tail = [score.headline for score in found.curve.values()][-LAST_EVALUATIONS:]
    versions = {name: version(name) for name in PACKAGES} | trained["versions"]
    beside = f", {at_once} runs at once" if at_once > 1 else ""
    return Row(
        *key,
        score=sum(tail) / len(tail),
        last=found.last.headline,
        last_error=found.last.score_standard_error or 0.0,
        best=found.best.headline,
        best_error=found.best.score_standard_error or 0.0,
        best_step=found.best_step,
        data_mean=normalized_score(env_id, info.mean_return),
        updates=max(found.curve),
        updates_per_second=trained["updates_per_second"],
        wall_seconds=round(seconds, 1),
        curve=" ".join(f"{step}:{score.headline:.2f}" for step, score in found.curve.items()),
        dataset=f"{info.dataset_id} ({info.source})",
        comparable=info.comparable,
        transitions=info.transitions,
        environment=env_id,
        machine=f"{cpu_name()}, {os.cpu_count()} cores{beside}; {trained['device']}",
        versions=" ".join(f"{name}={number}" for name, number in versions.items()),
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        instability=instability_of(
            [(score.headline, score.score_standard_error or 0.0) for score in found.curve.values()]
        ),
    )
