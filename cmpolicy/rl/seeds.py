"""Offline RL for the loop with several seeds at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cmpolicy.acceleration.stacked_agents import StackedAgents
from cmpolicy.acceleration.stacked_seeds_loop import standard_error
from cmpolicy.datasets.transitions import TransitionBatch, TransitionDataset
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.rollout import EnvironmentFailure
from cmpolicy.rl.score import Score, evaluate_agents, failures_named, no_score
from cmpolicy.rl.task import OfflineRL, evaluation_of
from cmpolicy.training.loop import Evaluation
from cmpolicy.training.random_state import OwnRandomState
from cmpolicy.training.run_directory import RunDirectory


class OfflineRLSeeds:
    """A task for each seed of `config.seeds`, on one dataset, with agents that train as a stack.

    Each begins as it would alone: with the weights and the random numbers of its own seed.

    Attributes:
        tasks: the seeds' own.
        random_states: where each draws its data and its noise from.
        learner: the stack of their agents.
        dataset: gives it batches.

    Raises:
        InputError: for anything that does not exist or fit.
    """

    def __init__(
        self, config: RLConfig, device: torch.device, data: TransitionDataset | None = None
    ) -> None:
        self.config, self.device = config, device
        self.tasks: list[OfflineRL] = []
        self.random_states: list[OwnRandomState] = []
        for alone in config.each_seed():
            torch.manual_seed(alone.seed)
            first = self.tasks[0] if self.tasks else None
            task = first.for_other_seed(alone) if first else OfflineRL(alone, device, data)
            task.seeds_at_once = len(config.seeds)
            self.tasks.append(task)
            self.random_states.append(OwnRandomState(device))
        generators = [state.generator for state in self.random_states]
        self.learner = StackedAgents([task.learner for task in self.tasks], generators)
        dataset = self.tasks[0].dataset
        assert isinstance(dataset, TransitionDataset), "seeds= refuses online.steps"
        self.dataset = StackedBatches(dataset, generators)

    @property
    def seeds(self) -> list[int]:
        """In the order of the stack."""
        return [task.config.seed for task in self.tasks]

    def scores(self, episodes: int, seeds: Sequence[int]) -> list[Score]:
        """Evaluate the agents as they stand, all at once."""
        env, references = self.tasks[0].env, self.tasks[0].references
        assert env is not None, "seeds= refuses env.id=none"
        act_with, window = self.learner.act_with, self.learner.core.policy.window
        with failures_named():
            return evaluate_agents(act_with, env, references, episodes, seeds, self.device, window)

    def evaluate(self, step: int) -> list[Evaluation]:
        """What `OfflineRL.evaluate` gives for each seed."""
        seeds = [task.eval_seed(step) for task in self.tasks]
        scores = self.scores(self.config.eval.episodes, seeds)
        return [evaluation_of(score, step) for score in scores]

    def final_scores(self) -> list[Score]:
        """What `OfflineRL.final_score` gives for each seed."""
        seeds = [task.final_seed for task in self.tasks]
        try:
            return self.scores(self.config.eval.final_episodes, seeds)
        except EnvironmentFailure as error:
            return [no_score(error)] * len(seeds)

    def run_name(self) -> str:
        """Task and agent, a path below output_dir."""
        return self.tasks[0].run_name()

    def description(self) -> dict[str, Any]:
        """What a result must say of its data and environment."""
        described = self.tasks[0].description()
        del described["seed"], described["seeds_at_once"]
        return {**described, "seeds": self.seeds}

    def draw(self, run: RunDirectory, evaluations: list[Evaluation]) -> Path:
        """Write learning_curve.png: means over seeds and their standard errors."""
        title = f", mean of {len(self.tasks)} seeds"
        return self.tasks[0].draw(run, evaluations, "eval/seed_standard_error", title)

    def summary(self, results: Sequence[dict[str, Any]], checkpoint: str) -> dict[str, Any]:
        """The scores of all seeds at the ``last`` or their ``best`` checkpoints, and their mean."""
        unit = "mean_return" if self.tasks[0].references is None else "normalized_score"
        known = [result[checkpoint][unit] for result in results]
        scores = [math.nan if score is None else float(score) for score in known]
        return {
            unit: sum(scores) / len(scores),
            "seed_standard_error": standard_error(scores),
            "by_seed": dict(zip(map(str, self.seeds), scores, strict=True)),
        }


class StackedBatches:
    """Batches (R, B, …) of one dataset, each seed's drawn from its own generator."""

    def __init__(self, dataset: TransitionDataset, generators: Sequence[torch.Generator]) -> None:
        self.dataset, self.generators = dataset, list(generators)
        self.frames = dataset.frames

    def sample(self, batch_size: int) -> TransitionBatch:
        """For each seed what `TransitionDataset.sample` would give it."""
        data, index, imitated = self.dataset, [], []
        for generator in self.generators:
            index.append(data.draw_index(batch_size, generator))
            imitated.append(data.draw_imitated(index[-1], generator))
        others = None if data.weights is None else torch.stack(imitated)
        return data.at(torch.stack(index), others)
