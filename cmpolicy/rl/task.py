"""Reinforcement learning for the loop: data, agent, environment, results from a configuration."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmpolicy.agents import AGENTS, Agent, Spaces
from cmpolicy.datasets.rewards import reward_transform
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.plugins import find
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.evaluation_environment import (
    NO_ENVIRONMENT,
    evaluation_env,
    fitting_spaces,
    is_same_task,
    references_of,
    refuse_environment_keys,
    spaces_of_data,
)
from cmpolicy.rl.evaluation_log import log_actions, log_video
from cmpolicy.rl.goals import with_future_goals
from cmpolicy.rl.learning_curve import draw_learning_curve
from cmpolicy.rl.online import OnlineData
from cmpolicy.rl.recorded_data import load_dataset, see_pictures
from cmpolicy.rl.rollout import Act, EnvironmentFailure
from cmpolicy.rl.score import NO_SCORE, Score, evaluate_agent, failures_named, no_score
from cmpolicy.rl.video import check_video
from cmpolicy.training.loop import Evaluation
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")

EPISODES_AT_MOST = 1_000  # of one evaluation: its episodes have consecutive seeds
SEEDS_A_RUN = 1_000_000
OWN = ("numpy",)  # sources of which nobody has published scores


class OfflineRL:
    """One agent on one dataset, evaluated in one environment.

    Attributes:
        dataset: on the device, rewards transformed; with `online.steps` the environment beside it.
        learner: the agent.
        env: the evaluation environment; None for none.
        references: D4RL's (minimum, maximum) return, or None.
        seeds_at_once: how many share the device and the time of an update.

    Args:
        data: to train on in place of what the configuration names.

    Raises:
        InputError: for anything that does not exist or fit.
    """

    def __init__(
        self, config: RLConfig, device: torch.device, data: TransitionDataset | None = None
    ) -> None:
        self.config, self.device, self.seeds_at_once = config, device, 1
        env = config.env
        dataset = load_dataset(config) if data is None else data
        if config.eval.video_every:
            check_video()
        self.info = dataset.info
        self.env: Environment | None = None
        self.references: tuple[float, float] | None = None
        if env.id == NO_ENVIRONMENT:
            refuse_environment_keys(config)
            self.spaces = spaces_of_data(dataset)
        else:
            places = config.eval.instances, config.eval.timeout
            environment = evaluation_env(env, dataset.info, *places)
            self.env, self.spaces = fitting_spaces(environment, dataset)
            self.references = references_of(self.env.id, dataset.info)
            comparable = dataset.info.comparable and is_same_task(self.env.id, dataset.info)
            self.info = replace(dataset.info, comparable=comparable)
        if config.dataset.future_goals and self.env is not None:
            copies = config.dataset.future_goals
            dataset = with_future_goals(dataset, self.env, copies, config.seed)
            self.info = replace(dataset.info, comparable=self.info.comparable)
        see_pictures(config, dataset)
        self.learner = build_agent(config, self.spaces).to(device)
        dataset = dataset.to(device)
        transform = reward_transform(dataset, env.reward)
        data = self.learner.prepare(dataset.replace(rewards=transform(dataset.rewards)))
        self.dataset: TransitionDataset | OnlineData = data
        if config.online.steps and self.env is not None:
            self.dataset = OnlineData(config, self.learner, data, self.env, transform)
        self.announce()

    def for_other_seed(self, config: RLConfig) -> OfflineRL:
        """The same task for another seed: an agent of its own, the same data and environment."""
        task = copy.copy(self)
        task.config = config
        task.learner = build_agent(config, self.spaces).to(self.device)
        return task

    def announce(self) -> None:
        """Say what is trained on what; loudly, where scores do not compare."""
        info = self.info
        env_id = self.env.id if self.env else "none, no scores"
        log.info("evaluation: %s   agent: %s", env_id, self.config.agent.name)
        if self.config.online.steps:
            log.info(
                "online: after %d updates %d steps of %s, %d updates each",
                self.config.steps,
                self.config.online.steps,
                env_id,
                self.config.online.updates_per_step,
            )
        if not info.comparable and info.source not in ("sample", *OWN):  # which has warned already
            log.warning(
                "scores on this data (%s) are NOT comparable with published ones.",
                info.source,
            )

    def score(self, episodes: int, seed: int) -> Score:
        """Evaluate the learner as it stands."""
        if self.env is None:
            return NO_SCORE
        window = self.config.agent.policy.window
        with failures_named():
            return evaluate_agent(
                self.act, self.env, self.references, episodes, seed, self.device, window
            )

    def evaluate(self, step: int) -> Evaluation:
        """The evaluation during training, on environment seeds of its own."""
        return evaluation_of(self.score(self.config.eval.episodes, self.eval_seed(step)), step)

    def final_score(self) -> Score:
        """The evaluation at the end, on environment seeds that no checkpoint was chosen by."""
        try:
            return self.score(self.config.eval.final_episodes, self.final_seed)
        except EnvironmentFailure as error:
            return no_score(error)

    def eval_seed(self, step: int) -> int:
        """Seed of the first episode, and of the noise, of the evaluation after `step` updates."""
        evaluation = step // self.config.eval.every
        return self.first_seed + EPISODES_AT_MOST * (evaluation % 800)

    @property
    def final_seed(self) -> int:
        """Seed of the first episode of the evaluations at the end."""
        return self.first_seed + EPISODES_AT_MOST * 900

    @property
    def first_seed(self) -> int:
        """First of the run's environment seeds, which end below 2³⁰."""
        return SEEDS_A_RUN * (1 + self.config.seed % (2**30 // SEEDS_A_RUN - 1))

    def data_score(self) -> float:
        """The mean of the data's own episodes, in the unit of the learning curve."""
        if self.references is None:
            return self.info.mean_return
        low, high = self.references
        return 100 * (self.info.mean_return - low) / (high - low)

    def act(self, generator: torch.Generator) -> Act:
        """Act as evaluations do."""
        return act_with(self.learner)(generator)

    def log_details(self, run: RunDirectory, evaluations: Sequence[Evaluation]) -> None:
        """Log beside an evaluation the data's mean, actions, and a video where one is due."""
        step, every = evaluations[-1].step, self.config.eval.video_every
        if np.isfinite(self.info.mean_return):
            run.log(step, {"data/mean_score": self.data_score()})
        log_actions(self, run, step)
        if every and len(evaluations) % every == 0:
            log_video(self, run, step)

    def run_name(self) -> str:
        """Task and agent, a path below output_dir."""
        return f"{self.config.env.name}/{self.config.agent.name}"

    def save_model(self, run: RunDirectory, step: int) -> None:
        """Write policy.safetensors, which `ConsistencyPolicy.load` reads, and keep a copy.

        `cmpolicy.select` chooses among the copies, policies/STEP.safetensors.
        """
        for path in (run.last_policy_path, run.policy_path(step)):
            self.learner.average_policy.save(path)

    def log_caveats(self) -> None:
        """Log the data's own score, and a warning where scores do not compare."""
        log.info("mean of the data: %.1f", self.data_score())
        if isinstance(self.dataset, OnlineData):
            steps = self.dataset.buffer.size
            log.info("the agent saw %d steps of the environment beside the data", steps)
        elif not self.info.comparable and self.info.source not in OWN:
            log.warning("these scores are NOT comparable with published ones.")

    def draw(
        self,
        run: RunDirectory,
        evaluations: list[Evaluation],
        error: str | None = None,
        remark: str = "",
    ) -> Path:
        """Write learning_curve.png.

        Args:
            error: the scalar to draw as error; that over episodes if not given.
            remark: at the end of the title.
        """
        normalized = self.references is not None
        mean = "eval/normalized_score" if normalized else "eval/mean_return"
        key = "eval/score_standard_error" if normalized else "eval/return_standard_error"
        path = run.path / "learning_curve.png"
        data = f"{self.info.dataset_id} ({self.info.source})"
        draw_learning_curve(
            path,
            [e.step for e in evaluations],
            [e.scalars.get(mean, np.nan) for e in evaluations],
            [e.scalars.get(error or key, np.nan) for e in evaluations],
            title=f"{self.config.agent.name} on {data}{remark}",
            ylabel="normalised score" if normalized else "return",
            data_mean=self.data_score() if np.isfinite(self.info.mean_return) else None,
            online_from=self.config.steps if self.config.online.steps else None,
        )
        return path

    def description(self) -> dict[str, Any]:
        """What a result must say of its data and environment."""
        dataset = asdict(self.info)
        if self.references is not None:
            dataset["mean_normalized_score"] = self.data_score()
        online = {}
        if isinstance(self.dataset, OnlineData):
            online = {"online": self.dataset.description()}
            dataset["comparable"] = False  # with what is trained on the data alone
        return {
            "task": self.config.env.name,
            "agent": self.config.agent.name,
            "seed": self.config.seed,
            "seeds_at_once": self.seeds_at_once,
            "dataset": dataset,
            **online,
            "environment": self.env and {**asdict(self.env), "reference_returns": self.references},
            "spaces": self.spaces._asdict(),
        }


def build_agent(config: RLConfig, spaces: Spaces) -> Agent:
    """The agent that `config.agent` describes, untrained."""
    kind = find("agent", AGENTS, config.agent.algorithm)
    return kind(spaces, config.agent, config.steps or config.updates)


def evaluation_of(score: Score, step: int) -> Evaluation:
    """Give a score as the loop takes it; no scalars where there is none."""
    if score.episodes == 0:
        return Evaluation(step, score.headline, {})
    scalars = {f"eval/{k}": float(v) for k, v in asdict(score).items() if v is not None}
    return Evaluation(step, score.headline, scalars)


def act_with(
    agent: Agent,
    best_of: int | None = None,
    mode_of: int | None = None,
    steps: int | None = None,
) -> Callable[[torch.Generator], Act]:
    """A function that binds the agent's noise to a generator, for `evaluate_agent`."""

    def bind(generator: torch.Generator) -> Act:
        return lambda obs: agent.act(
            obs, best_of=best_of, mode_of=mode_of, steps=steps, generator=generator
        )

    return bind
