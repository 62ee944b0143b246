"""Train the published consistency actor-critic on a bandit, in the loop.

Episodes have one step and one observation. The behaviour prefers a worse mode: cloning keeps its
weights, and Q-guidance moves the mass to the best mode.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmpolicy.agents import DingJinAC, Spaces
from cmpolicy.agents.ding_jin import DingJinACConfig
from cmpolicy.consistency.losses import LOSSES
from cmpolicy.errors import InputError
from cmpolicy.policy.config import PolicyConfig
from cmpolicy.toys.config import ToyConfig
from cmpolicy.toys.dataset import TRAINING_SAMPLES, Bandit
from cmpolicy.toys.figures import draw_bandit
from cmpolicy.training.loop import Evaluation
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")


@dataclass(frozen=True)
class BanditScore:
    """Rewards and modes of the actor's actions, and of those of the data."""

    mean_reward: float
    behaviour_reward: float
    mass: list[float]  # fraction of actions nearest to each mode
    behaviour_mass: list[float]
    best_mode: int  # index of the mode with the highest reward

    def __str__(self) -> str:
        before, after = self.behaviour_mass[self.best_mode], self.mass[self.best_mode]
        return (
            f"reward {self.mean_reward:.3f} (data {self.behaviour_reward:.3f}), "
            f"mass at the best mode {after:.1%} (data {before:.1%})"
        )


class BanditTask:
    """Consistency-AC as published on a bandit: Q moves its mass from one mode to another.

    Raises:
        InputError: for a loss that needs a teacher.
    """

    def __init__(self, config: ToyConfig, toy: Bandit, device: torch.device) -> None:
        self.config, self.toy, self.device = config, toy, device
        loss = config.loss
        if loss.name not in LOSSES or loss.teacher_steps or config.teacher:
            raise InputError(
                f"loss={loss.name} needs a teacher, and a bandit's actor has none; choose one of "
                f"{', '.join(LOSSES)} with loss.teacher_steps=0"
            )
        generator = torch.Generator().manual_seed(config.seed)
        policy = PolicyConfig(
            hidden=config.hidden,
            parameterization=loss.parameterization,
            loss=loss.name,
            loss_options=loss.options,
            sigma_min=config.sigma_min,
            sigma_max=config.sigma_max,
        )
        agent = DingJinACConfig(
            policy=policy,
            eta=config.eta,
            learning_rate=loss.learning_rate,
            cosine_decay=True,
            ema_decay=loss.ema_decay,
            critic_hidden=config.hidden,
            critic_learning_rate=loss.learning_rate,
        )
        spaces = Spaces(1, [-1.0] * toy.dim, [1.0] * toy.dim)
        dataset = toy.transitions(TRAINING_SAMPLES, generator).to(device)
        self.learner = DingJinAC(spaces, agent, config.steps).to(device)
        self.dataset = self.learner.prepare(dataset)
        log.info("bandit: %s   loss: %s   eta: %g", config.toy, loss.name, config.eta)

    def run_name(self) -> str:
        """Name toy and method, as a path below output_dir."""
        return f"{self.config.toy}/{self.config.loss.name}-eta{self.config.eta:g}"

    def _actions(self, seed: int) -> Tensor:
        """Sample one-step actions of the averaged policy, (n, d)."""
        observations = np.zeros((self.config.eval.samples, 1), dtype=np.float32)
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.from_numpy(self.learner.act(observations, mode_of=1, generator=generator))

    def _score(self, seed: int) -> BanditScore:
        mine, theirs = self._actions(seed), self.dataset.actions.cpu()
        return BanditScore(
            mean_reward=float(self.toy.reward(mine).mean()),
            behaviour_reward=float(self.toy.reward(theirs).mean()),
            mass=self.toy.mass(mine).tolist(),
            behaviour_mass=self.toy.mass(theirs).tolist(),
            best_mode=self.toy.best,
        )

    def evaluate(self, step: int) -> Evaluation:
        """Score the actor during training, with the same noise each time."""
        score = self._score(10_000 * (self.config.seed + 1))
        scalars = {
            "eval/mean_reward": score.mean_reward,
            "eval/mass_at_best": score.mass[score.best_mode],
        }
        return Evaluation(step, score.mean_reward, scalars)

    def final_score(self) -> BanditScore:
        """Score the actor with noise that did not choose the best checkpoint."""
        return self._score(10_000 * (self.config.seed + 1) + 5_000)

    def description(self) -> dict[str, Any]:
        """Describe data and method for results.json."""
        return {
            "task": self.config.toy,
            "loss": asdict(self.config.loss),
            "eta": self.config.eta,
            "seed": self.config.seed,
            "dataset": {"size": len(self.dataset.actions)},
        }

    def log_caveats(self) -> None:
        """Log nothing."""

    def save_model(self, run: RunDirectory, step: int) -> None:
        """Write policy.safetensors, which `ConsistencyPolicy.load` reads."""
        self.learner.average_policy.save(run.path / "policy.safetensors")

    def draw(self, run: RunDirectory, evaluations: list[Evaluation]) -> Path:
        """Write panel.png: first coordinates of the actions of data and actor, and the reward."""
        path = run.path / "panel.png"
        grid = torch.zeros(400, self.toy.dim)
        grid[:, 0] = torch.linspace(-1, 1, 400)
        actions = {
            "data": self.dataset.actions.cpu()[:, 0],
            f"actor\nη = {self.config.eta:g}": self._actions(0)[:, 0],
        }
        title = f"{self.config.loss.name} on {self.config.toy}"
        draw_bandit(path, actions, grid[:, 0], self.toy.reward(grid), title=title)
        return path
