"""A peer's run in our clothes: our data, environment, evaluation and results, their training.

The command line is the train command's, composed by the same configuration; the agent in it is a
stand-in that is never trained.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import OmegaConf

from cmpolicy.cli.command import resolve_device
from cmpolicy.errors import InputError
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.task import OfflineRL
from cmpolicy.training.loop import Evaluation
from cmpolicy.training.report import Results
from cmpolicy.training.run_directory import RunDirectory

FloatArray = npt.NDArray[np.float32]


class Peer(Protocol):
    """What someone else's agent must offer."""

    def act(self, observations: FloatArray, generator: torch.Generator, /) -> FloatArray:
        """(N, obs_dim) → (N, action_dim)."""
        ...

    def save(self, path: Path, /) -> None: ...

    def load(self, path: Path, /) -> None: ...


class PeerRun:
    """Evaluates a peer while it trains, and writes its results as a run of ours.

    Args:
        config: of the train command; `run_dir` must be given.
        versions: of what the peer is made of.
        settings: its hyperparameters, for the record.
    """

    def __init__(
        self, config: RLConfig, versions: Mapping[str, str], settings: Mapping[str, Any]
    ) -> None:
        if config.run_dir is None:
            raise InputError("a peer's run needs run_dir=")
        torch.set_num_threads(config.threads or 1)
        self.config = config
        self.device = resolve_device(config.device)
        self.task = OfflineRL(config, self.device)
        self.directory = RunDirectory(config.run_dir)
        self.directory.create(OmegaConf.to_yaml(OmegaConf.structured(config)))
        # theirs, as they come: in float32, operation by operation
        computing = {"precision": "fp32", "acceleration": "off"}
        self.results = Results(self.task, self.directory, computing)
        self.description = {"versions": dict(versions), "settings": dict(settings)}
        self.evaluations: list[Evaluation] = []
        self.outside = 0.0  # seconds spent on anything but updates

    @property
    def best_path(self) -> Path:
        return self.directory.path / "checkpoints" / "best.peer"

    def begin(self, peer: Peer) -> None:
        """From here on the peer trains."""
        self.peer = peer
        self.task.learner = Acting(peer)  # type: ignore[assignment]
        self.results.progress([], 0.0)
        self.start = time.perf_counter()

    def updates_per_second(self, step: int) -> float:
        return step / (time.perf_counter() - self.start - self.outside)

    def after_update(self, step: int) -> None:
        """To be called after every update, or at least wherever an evaluation is due."""
        if step % self.config.eval.every and step != self.config.steps:
            return
        self.speed = self.updates_per_second(step)
        begin = time.perf_counter()
        evaluation = self.task.evaluate(step)
        self.evaluations.append(evaluation)
        if evaluation.score >= max(e.score for e in self.evaluations):
            self.best_step = step
            self.peer.save(self.best_path)
        self.results.progress(self.evaluations, self.speed)
        self.outside += time.perf_counter() - begin

    def finish(self) -> None:
        """Evaluate the last and the best checkpoint on fresh seeds, and report both, apart."""
        last = self.task.final_score()
        self.peer.load(self.best_path)
        best = self.task.final_score()
        self.results.write(
            True,
            self.speed,
            peer=self.description,
            last={"step": self.config.steps, **dataclasses.asdict(last)},
            best={
                "step": self.best_step,
                **dataclasses.asdict(best),
                "chosen_by": f"highest of {len(self.evaluations)} evaluations during training, "
                "evaluated again on fresh seeds",
            },
            evaluations=[{"step": e.step, **e.scalars} for e in self.evaluations],
        )
        print(f"last: {last}\nbest: {best}\nrun: {self.directory.path}")


class Acting:
    """A peer where an evaluation of ours expects an agent."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def act(
        self,
        observations: FloatArray,
        *,
        best_of: int | None = None,
        mode_of: int | None = None,
        steps: int | None = None,
        generator: torch.Generator,
    ) -> FloatArray:
        if (best_of, mode_of, steps) != (None, None, None):
            raise InputError("a peer acts as it does: neither best_of nor mode_of nor steps")
        return self.peer.act(observations, generator)
