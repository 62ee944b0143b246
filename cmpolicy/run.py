"""A trained run: its policy, its scores, and what can be done with them."""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Callable
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from cmpolicy.agents import Agent
from cmpolicy.cli.command import resolve_device
from cmpolicy.cli.run_config import check_checkpoint
from cmpolicy.errors import InputError
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.policy.export_graph import FORMATS, PolicyGraph, checked_form, save_form
from cmpolicy.rl.rollout import Act
from cmpolicy.rl.score import Score, evaluate_agent
from cmpolicy.rl.task import act_with
from cmpolicy.rl.trained_agent import RunRecord, load_agent, read_record
from cmpolicy.rl.video import write_video
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")


def load_run(path: str | PathLike[str], checkpoint: str = "best", device: str = "cpu") -> Run:
    """Open the run of an agent that has been trained, or is being trained.

    Args:
        path: its directory.
        checkpoint: ``best`` of the evaluations during training, or ``last``.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.

    Raises:
        InputError: if there is none, or it is of several seeds, each with a run of its own.
    """
    run = Run(path, checkpoint, device)
    if not run.seeds:
        _ = run.record
    return run


class Run:
    """A run of an agent on disk.

    Attributes:
        path: its directory.
        checkpoint: whose policy `policy`, `evaluate` and `export` take, ``best`` or ``last``.

    Raises:
        InputError: if there is no run.
    """

    def __init__(
        self, path: str | PathLike[str], checkpoint: str = "best", device: str = "cpu"
    ) -> None:
        check_checkpoint(checkpoint)
        self.directory = RunDirectory.existing(Path(path))
        self.path = self.directory.path
        self.checkpoint = checkpoint
        self.device = resolve_device(device)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, checkpoint={self.checkpoint!r})"

    @property
    def results(self) -> dict[str, Any]:
        """What results.json says."""
        return self.directory.read_results()

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """The final evaluations of the ``last`` and the ``best`` checkpoint, by name.

        Each is a dictionary of the step and the fields of `Score`, of several seeds their mean;
        none of a run that is not finished, or trained without an environment.
        """
        found = {name: self.results.get(name) for name in ("last", "best")}
        return {name: each for name, each in found.items() if each and each.get("episodes") != 0}

    @property
    def seeds(self) -> list[Run]:
        """The runs of several seeds that were trained at once; none of a single run."""
        names = [f"seed-{seed}" for seed in self.results.get("seeds", ())]
        return [Run(self.path / name, self.checkpoint, str(self.device)) for name in names]

    @cached_property
    def record(self) -> RunRecord:
        """What the run says of its environment, data and spaces."""
        return read_record(self.directory)

    @cached_property
    def loaded(self) -> tuple[Agent, int]:
        """The agent of the checkpoint, and its number of updates."""
        return load_agent(self.directory, self.record.spaces, self.checkpoint, self.device)

    @property
    def agent(self) -> Agent:
        """The agent of the checkpoint, with its critics."""
        return self.loaded[0]

    @property
    def policy(self) -> ConsistencyPolicy:
        """The policy of the checkpoint that acts, the average of the trained one."""
        return self.agent.average_policy

    def evaluate(
        self,
        episodes: int = 20,
        seed: int = 0,
        *,
        env: str | None = None,
        best_of: int | None = None,
        mode_of: int | None = None,
        steps: int | None = None,
    ) -> Score:
        """Roll out the agent; the outcome is added to evaluations.jsonl as well.

        Args:
            seed: of the first episode, the next ones count on, and of the policy's noise.
            env: id of another environment than the run's.
            best_of, mode_of, steps: see `Agent.act`; by default as in training.

        Raises:
            InputError: if the run was trained without an environment, and none is given; for
                fewer than one episode, or an environment that is no id.
        """
        if episodes < 1:
            raise InputError(f"episodes must be at least 1, got {episodes}")
        if env is not None and not isinstance(env, str):
            raise InputError(f"env is {env!r}, expected the id of a registered environment")
        act = self.acting(best_of, mode_of, steps)
        environment = self.record.environment(env)
        references = self.record.references
        window = self.policy.window
        score = evaluate_agent(act, environment, references, episodes, seed, self.device, window)
        candidates = best_of or self.agent.candidates
        row = {
            "checkpoint": self.checkpoint,
            "step": self.loaded[1],
            "environment": environment.id,
            "seed": seed,
            "network_calls": steps or len(self.policy.levels),
            "best_of": candidates,
            "mode_of": 1 if candidates > 1 else mode_of or self.agent.config.mode_of,
            **dataclasses.asdict(score),
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        self.directory.append_evaluation(row)
        return score

    def acting(
        self, best_of: int | None = None, mode_of: int | None = None, steps: int | None = None
    ) -> Callable[[torch.Generator], Act]:
        """Give what acts once it has a generator of noise, for roll-outs."""
        return act_with(self.agent, best_of, mode_of, steps)

    def video(self, seed: int = 0, *, env: str | None = None, **options: int | None) -> Path:
        """Write one episode as video-CHECKPOINT.mp4; `options` as of `acting`."""
        generator = torch.Generator(device=self.device).manual_seed(seed)
        act = self.acting(**options)(generator)
        path = self.path / f"video-{self.checkpoint}.mp4"
        return write_video(act, self.record.environment(env), path, seed, self.policy.window)

    def report(self, path: str | PathLike[str] | None = None) -> Path:
        """Write a page about this run, report.html in its directory unless `path` is given."""
        from cmpolicy.comparison.page import write_report

        return write_report([self.path], Path(path or self.path / "report.html"))

    def export(
        self, path: str | PathLike[str], format: str = "onnx", *, mode_of: int | None = None
    ) -> Path:
        """Write the policy for machines without this library, after comparing it with the policy.

        Args:
            format: ``onnx`` or ``torch``, which `torch.export.load` reads.
            mode_of: samples whose mode is taken, by default as it acts; a plain sample, 1, takes
                its noise as an input.

        Raises:
            InputError: for another format, a missing package, or a path that cannot be written.
        """
        if format not in FORMATS:
            raise InputError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
        graph = PolicyGraph(self.policy, mode_of=mode_of or self.policy.mode_of)
        about = {"agent": self.agent.config.name, "updates": self.loaded[1]}
        about |= {"checkpoint": self.checkpoint, **graph.description()}
        content, _ = checked_form(format, graph, about)
        return save_form(Path(path), content)
