"""Consistency-AC as published by Ding & Jin (2024): the consistency loss plus Q in units of |Q|."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from cmpolicy.agents.agent import AgentConfig, Metrics
from cmpolicy.agents.critic_agent import CriticAgent, CriticConfig
from cmpolicy.consistency.ema import ema_update
from cmpolicy.consistency.randomness import uniform
from cmpolicy.datasets.transitions import TransitionBatch


class Published(NamedTuple):
    """Settings that Ding & Jin 2024 publish for one task; Diffusion-QL's, but for `eta`, are these.

    Fields are named as those of the agents' configurations.
    """

    eta: float
    max_grad_norm: float
    learning_rate: float = 3e-4
    max_q_backup: bool = False
    normalize_target: bool = False


# keys: D4RL ids without version
PUBLISHED: dict[str, Published] = {
    "halfcheetah-medium": Published(1.0, 9.0),
    "halfcheetah-medium-replay": Published(1.0, 2.0),
    "halfcheetah-medium-expert": Published(1.0, 7.0),
    "hopper-medium": Published(0.1, 9.0),
    "hopper-medium-replay": Published(0.1, 4.0),
    "hopper-medium-expert": Published(1.0, 5.0),
    "walker2d-medium": Published(1.0, 1.0, normalize_target=True),
    "walker2d-medium-replay": Published(0.1, 4.0),
    "walker2d-medium-expert": Published(1.0, 5.0, normalize_target=True),
    "pen-human": Published(0.01, 7.0, 3e-5, normalize_target=True),
    "pen-cloned": Published(0.01, 8.0, 3e-5, normalize_target=True),
    "kitchen-complete": Published(0.5, 2.0, normalize_target=True),
    "kitchen-partial": Published(0.5, 2.0, normalize_target=True),
    "kitchen-mixed": Published(0.5, 2.0, normalize_target=True),
    "antmaze-umaze": Published(0.01, 2.0, normalize_target=True),
    "antmaze-umaze-diverse": Published(0.01, 3.0, 3e-4, True, True),
    "antmaze-medium-play": Published(0.01, 2.0, 1e-3, True),
    "antmaze-medium-diverse": Published(0.01, 1.0, 3e-4, True, True),
    "antmaze-large-play": Published(4.5, 10.0, 3e-4, True, True),
    "antmaze-large-diverse": Published(3.5, 2.0, 3e-4, True, True),
}
# for tasks without published settings: what most of locomotion has; Adroit has pen-human's
UNTUNED = Published(1.0, 5.0)
ADROIT = ("pen", "hammer", "door", "relocate")


def published(d4rl_id: str | None, setting: str) -> float | bool:
    """Return one of the published settings of a D4RL task, in configurations ``${published:…}``."""
    task = (d4rl_id or "").rpartition("-v")[0]
    untuned = PUBLISHED["pen-human"] if task.startswith(ADROIT) else UNTUNED
    value: float | bool = getattr(PUBLISHED.get(task, untuned), setting)
    return value


@dataclass
class DingJinACConfig(CriticConfig):
    """Hyperparameters of DingJinAC.

    Attributes:
        eta: η, weight of the Q-guidance.
        max_q_backup: the target takes the best of ten actions (Kumar et al. 2020, for AntMaze).
        normalize_target: divide targets by their standard deviation, as the published code
            does on some tasks.
    """

    algorithm: str = "ac_ding_jin"
    name: str = "ac_ding_jin"
    eta: float = 1.0
    max_q_backup: bool = False
    normalize_target: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta < 0:
            raise ValueError(f"need eta ≥ 0, got {self.eta}")


class DingJinAC(CriticAgent):
    """Consistency-AC (Ding & Jin 2024, Algorithm 1)."""

    Config: ClassVar[type[AgentConfig]] = DingJinACConfig
    config: DingJinACConfig

    def next_value(self, next_observations: Tensor) -> Tensor:
        """min_e Q'_e(s', π'(s')), (B,); with `max_q_backup` the largest of ten draws."""
        draws = 10 if self.config.max_q_backup else 1
        obs = next_observations.repeat_interleave(draws, dim=0)
        q = self.target_critic(obs, self.average_policy(obs))
        return q.view(q.shape[0], -1, draws).amax(2).amin(0)  # type: ignore[no-any-return]

    @torch.no_grad()
    def target(self, batch: TransitionBatch) -> Tensor:
        """y = r + γ (1 − terminal) min_e Q'_e(s', π'(s')), (B,)."""
        bootstrap = (1 - batch.terminals) * self.next_value(batch.next_observations)
        y: Tensor = self.reward_scale * batch.rewards + self.config.discount * bootstrap
        return y / (y.std() + 1e-6) if self.config.normalize_target else y

    def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        """Σ_e (Q_e(s, a) − y)²."""
        return self.squared_error(batch, self.target(batch))

    def actor_loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        """L_consistency(a | s) − η Q(s, π(s)) / E|Q|."""
        observations = batch.observations
        consistency = self.policy.loss(observations, batch.actions, self.progress)
        guidance, q = self.guidance(observations, self.policy(observations))
        return consistency + self.config.eta * guidance, {
            "actor/consistency_loss": consistency.detach(),
            "actor/q": q,
        }

    def guidance(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """−E[Q_e]/E|Q_e'| and E[Q_e], each (): e is drawn anew for each update, e' is the next."""
        members = self.config.critic_ensemble
        member = (members * uniform((), observations)).long()
        q = self.critic.one(member, observations, actions)
        with torch.no_grad():
            other = self.critic.one((member + 1) % members, observations, actions)
        return -q.mean() / other.abs().mean(), q.detach().mean()

    def update(self, batch: TransitionBatch) -> Metrics:
        """Algorithm 1: critics, their targets, the actor, its average."""
        critic_metrics = self.minimize("critic", self.critic_loss, batch)
        ema_update(self.target_critic, self.critic, 1 - self.config.tau)
        actor_metrics = self.minimize("policy", self.actor_loss, batch)
        self.finish_step()
        return {**critic_metrics, **actor_metrics}

    def limits(self) -> dict[str, tuple[float, str]]:
        """None for normalised targets: their unit is their own spread, not the data's."""
        return {} if self.config.normalize_target else super().limits()
