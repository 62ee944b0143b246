"""Offline-to-online: the agent acts between updates, and learns from what comes of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cmpolicy.agents import Agent
from cmpolicy.agents.critic_agent import CriticAgent
from cmpolicy.datasets.ogbench import SUCCESS
from cmpolicy.datasets.replay_buffer import ReplayBuffer
from cmpolicy.datasets.rewards import RewardTransform
from cmpolicy.datasets.transitions import TransitionBatch, TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.policy.action_chunks import Window
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.rollout import EnvironmentFailure, Episode, close
from cmpolicy.rl.score import failures_named
from cmpolicy.training.random_state import preserved_random_state

log = logging.getLogger("cmpolicy")

# Seeds of episodes: apart from those of evaluations, and below 2³¹, which old simulators take.
FIRST_SEED = 2**30
SEEDS_A_RUN = 2**20
MOST_FAILURES = 10  # episodes in succession
NOT_FINITE = "a reward or an observation was not finite"
RECENT = 10  # episodes whose mean return is told


class OnlineData:
    """Source of the loop's batches: the data alone first, then the environment as well.

    From update `config.steps` on, the agent does a step of the environment before every
    `online.updates_per_step` updates. It explores by sampling, from torch's global generator.

    Args:
        offline: what `learner.prepare` gave.
        transform: of rewards, as the data's.

    Attributes:
        returns: of the finished episodes, in the environment's reward.

    Raises:
        InputError: for an agent without critics.
    """

    def __init__(
        self,
        config: RLConfig,
        learner: Agent,
        offline: TransitionDataset,
        environment: Environment,
        transform: RewardTransform,
    ) -> None:
        if not isinstance(learner, CriticAgent):
            raise InputError(
                f"online.steps={config.online.steps} with agent {config.agent.name}, which does "
                "not learn from rewards; choose agent=ac, iql or diffusion_ql"
            )
        if learner.policy.window != Window():
            raise InputError(
                f"online.steps={config.online.steps} with {learner.policy.window}: what acts in "
                "the environment sees one observation and gives one action; train on data alone"
            )
        self.learner, self.offline, self.transform = learner, offline, transform
        self.offline_updates = config.steps
        self.updates_per_step = config.online.updates_per_step
        self.first_seed = FIRST_SEED + config.seed * SEEDS_A_RUN % 2**30
        beside = offline.at_return_temperature(config.online.return_temperature)
        self.buffer = ReplayBuffer(
            beside, config.online.steps, learner.config.n_step, learner.config.discount
        )
        own = [w for w in environment.wrappers if w["name"] != SUCCESS]  # the data's rewards
        self.environment = replace(environment, wrappers=own)
        self.env = self.environment.make()
        self.episode: Episode | None = None  # None between two
        self.rewards: list[float] = []  # of the episode in progress
        self.returns: list[float] = []
        self.begun = 0  # episodes
        self.failed = self.in_succession = 0  # of them, and how many of the last
        self.updates: int | None = None

    def sample(self, batch_size: int) -> TransitionBatch:
        """Draw a batch, after a step of the environment where one is due."""
        if self.updates is None:
            self.updates = int(self.learner.step)
        online = self.updates - self.offline_updates
        if online >= 0 and online % self.updates_per_step == 0:
            self.act()
        self.updates += 1
        return (self.offline if online < 0 else self.buffer).sample(batch_size)

    def act(self) -> None:
        """Do one step of the environment, into the buffer."""
        if self.episode is None:
            self.begin_episode()
        episode = self.episode
        assert episode is not None
        before = episode.observation
        action = self.learner.act(before[None], mode_of=1)[0]
        try:
            with preserved_random_state():
                episode.step(action)
        except EnvironmentFailure as error:
            self.env_failed(error)
            return
        if episode.failed:
            self.abandon_episode(NOT_FINITE)
            return
        self.rewards.append(episode.reward)
        self.buffer.add(
            torch.from_numpy(before),
            torch.from_numpy(action),
            self.transform(torch.tensor(episode.reward, device=self.learner.step.device)),
            torch.from_numpy(episode.observation),
            episode.terminated,
            episode.over,
        )
        if episode.over:
            self.finish_episode()

    def begin_episode(self) -> None:
        """Begin an episode; its number is its seed, so that it can be repeated."""
        self.rewards = []
        while self.episode is None:
            seed = self.first_seed + self.begun
            self.begun += 1
            try:
                with preserved_random_state():
                    self.episode = Episode(self.env, seed)
            except EnvironmentFailure as error:
                self.env_failed(error)
                continue
            if self.episode.failed:
                self.abandon_episode(NOT_FINITE)

    def env_failed(self, error: EnvironmentFailure) -> None:
        """Go on in another instance of the environment, after an exception of this one."""
        self.abandon_episode(str(error))
        close(self.env)
        with failures_named():
            self.env = self.environment.make()

    def abandon_episode(self, reason: str) -> None:
        """Begin another one; nothing of the step that failed is stored.

        Raises:
            EnvironmentFailure: for the `MOST_FAILURES`th in succession.
        """
        self.failed += 1
        self.in_succession += 1
        self.buffer.abandon_episode()
        self.episode = None
        if self.in_succession == MOST_FAILURES:
            raise EnvironmentFailure(
                f"{MOST_FAILURES} episodes in succession failed, the last of seed "
                f"{self.first_seed + self.begun - 1}: {reason}"
            )
        log.warning("%s; another episode begins", reason)

    def finish_episode(self) -> None:
        """Count its return, which may be larger than any in the data."""
        rewards = self.transform(torch.tensor(self.rewards, device=self.learner.step.device))
        ends = torch.zeros_like(rewards, dtype=torch.bool)
        ends[-1] = True
        self.learner.widen_limits(rewards, ends)
        self.returns.append(sum(self.rewards))
        self.in_succession = 0
        self.episode = None

    def scalars(self) -> dict[str, float]:
        """For the log; nothing while the environment has not begun."""
        if self.buffer.size == 0:
            return {}
        told = {"online/environment_steps": float(self.buffer.size)}
        if self.returns:
            told["online/episode_return"] = float(np.mean(self.returns[-RECENT:]))
        return told

    def description(self) -> dict[str, Any]:
        """What a result must say of it."""
        return {
            "begins_at_update": self.offline_updates,
            "updates_per_step": self.updates_per_step,
            "environment_steps": self.buffer.size,
            "episodes": len(self.returns),
            "failed_episodes": self.failed,
            "recent_mean_return": float(np.mean(self.returns[-RECENT:])) if self.returns else None,
        }

    def training_state(self) -> dict[str, Any]:
        """Everything that a resumed training needs."""
        return {
            "buffer": self.buffer.training_state(),
            "returns": self.returns,
            "begun": self.begun,
            "offline_updates": self.offline_updates,
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `training_state` gave, the episode in progress by doing it again.

        Raises:
            InputError: if the environment has begun after another number of updates.
        """
        begins = state["offline_updates"]
        if begins != self.offline_updates and len(state["buffer"]["online"]["rewards"]):
            raise InputError(
                f"the environment has begun after {begins} updates, steps={self.offline_updates} "
                "cannot change that; give more online.steps"
            )
        self.buffer.load_training_state(state["buffer"])
        self.returns, self.begun = list(state["returns"]), state["begun"]
        self.episode, self.updates = None, None
        if self.buffer.begin < self.buffer.size:
            self.repeat_episode()

    def repeat_episode(self) -> None:
        """Bring the environment to where the episode in progress was, by its seed and actions."""
        done = slice(self.buffer.begin, self.buffer.size)
        self.begun -= 1
        self.begin_episode()
        episode = self.episode
        assert episode is not None
        for action in self.buffer.online.actions[done].cpu().numpy():
            with preserved_random_state():
                episode.step(action)
            if episode.over:
                break
            self.rewards.append(episode.reward)
        recorded = self.buffer.online.next_observations[done][-1].cpu().numpy()
        if episode.over or not np.array_equal(episode.observation, recorded):
            log.warning("this environment does not repeat itself; an episode begins anew")
            self.buffer.abandon_episode()
            self.episode = None
