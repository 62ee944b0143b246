"""Consistency-AC: a one-call actor that critics guide away from a consistency clone of the data.

Three networks learn side by side:

- critics Q of the actor, first from the returns that followed in the data, then by TD;
- a clone μ(s, z), a consistency model of the data's actions, those that turned out better than the
  clone's own weighted more;
- the actor a(s, z), a one-call student of the clone with the same noise z, moved along ∇_a Q.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from cmpolicy.agents.agent import AgentConfig, Metrics, Spaces, frozen_copy
from cmpolicy.agents.critic_agent import CriticAgent, CriticConfig
from cmpolicy.consistency.ema import ema_update
from cmpolicy.consistency.randomness import normal
from cmpolicy.datasets.n_step_returns import discounted_returns, with_returns
from cmpolicy.datasets.transitions import TransitionBatch, TransitionDataset
from cmpolicy.errors import InputError

MAX_LOG_WEIGHT = 3.0  # of an action of large advantage: it counts at most e³ times an average one


@dataclass
class ACConfig(CriticConfig):
    """Hyperparameters of ConsistencyAC: one setting for all tasks.

    Attributes:
        learning_rate: of the clone.
        actor_learning_rate: of the actor.
        discount: γ. A score counts a whole episode. A shorter horizon prefers speed now to a fall
            some hundred steps later, and its critics guide the wrong way.
        warm_up: share of the training in which critics learn from returns and nothing follows them.
        ramp: share of the training over which guidance and weights then rise to full strength.
        radius: r, mean length of the actor's move away from the clone, in units of half an action's
            range.
        advantage_weight: β of the clone's weights exp(β A / RMS(A)); 0 for all alike.
        return_temperature: α of the weights ∝ exp(G/α) by which imitated actions are drawn, G their
            episode's return scaled to [0, 1] over the data; 0 for all alike.
    """

    algorithm: str = "ac"
    name: str = "ac"
    learning_rate: float = 1e-3
    actor_learning_rate: float = 3e-4
    weight_decay: float = 2.5
    cosine_decay: bool = True
    discount: float = 0.998
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    warm_up: float = 0.25
    ramp: float = 0.1
    radius: float = 0.1
    advantage_weight: float = 1.0
    return_temperature: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.actor_learning_rate <= 0 or self.ramp <= 0 or not 0 <= self.warm_up < 1:
            raise ValueError(
                "need actor_learning_rate > 0, ramp > 0 and 0 ≤ warm_up < 1, got "
                f"{self.actor_learning_rate}, {self.ramp} and {self.warm_up}"
            )
        if min(self.radius, self.advantage_weight, self.return_temperature) < 0:
            raise ValueError(
                "need radius ≥ 0, advantage_weight ≥ 0 and return_temperature ≥ 0, got "
                f"{self.radius}, {self.advantage_weight} and {self.return_temperature}"
            )
        if self.n_step != 1:
            raise ValueError(f"agent ac learns from one-step targets, got n_step={self.n_step}")


class ConsistencyAC(CriticAgent):
    """Consistency actor-critic: `policy` is the actor a_θ, `clone` the consistency model μ_φ."""

    Config: ClassVar[type[AgentConfig]] = ACConfig
    config: ACConfig

    def __init__(self, spaces: Spaces, config: ACConfig, total_steps: int) -> None:
        super().__init__(spaces, config, total_steps)
        self.clone = self.make_policy(spaces)
        self.clone.load_state_dict(self.policy.state_dict())
        self.average_clone = frozen_copy(self.clone)
        self.add_optimizer("clone", self.clone, config.learning_rate, config.weight_decay)
        self.add_optimizer("policy", self.policy, config.actor_learning_rate)

    def prepare(self, dataset: TransitionDataset) -> TransitionDataset:
        """As of every agent with critics; with returns, and weights of imitated actions."""
        temperature = self.config.return_temperature
        weighted = dataset.weighted_by_return(temperature) if temperature else dataset
        prepared = super().prepare(with_returns(weighted, self.config.discount))
        for policy in (self.clone, self.average_clone):
            policy.fit_normalizers(prepared.measured, prepared.actions)
        return prepared

    def scale_of_rewards(self, dataset: TransitionDataset) -> Tensor:
        """1/std of the discounted returns, which gives values a spread of one."""
        returns = discounted_returns(dataset.rewards, dataset.stops, self.config.discount)
        scale = 1 / returns.std(correction=0).clamp_min(1e-6)
        for critic in (self.critic, self.target_critic):
            critic.value_mean.copy_(scale * returns.mean())
        return scale

    @property
    def strength(self) -> Tensor:
        """Of guidance and weights: 0 in the warm-up, then rising to 1, ()."""
        return ((self.progress - self.config.warm_up) / self.config.ramp).clamp(0, 1)

    @torch.no_grad()
    def target(self, batch: TransitionBatch) -> Tensor:
        """y = r + γ (1 − terminal) min_e Q'_e(s', a'), a' = ā(s', z), (B,).

        In the warm-up r is the return to the episode's end, and s' what follows there.
        """
        warm = self.progress < self.config.warm_up
        rewards = torch.where(warm, batch.returns, batch.rewards)
        terminals = torch.where(warm, batch.final_terminals, batch.terminals)
        after = torch.where(warm, batch.final_observations, batch.next_observations)
        q = self.target_critic(after, self.average_policy(after)).amin(0)
        y: Tensor = self.reward_scale * rewards + self.config.discount * (1 - terminals) * q
        return y

    def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        """Σ_e E[(Q_e(s, a) − y)²]."""
        return self.squared_error(batch, self.target(batch))

    @torch.no_grad()
    def advantage_weights(self, batch: TransitionBatch) -> Tensor:
        """w ∝ exp(β A/RMS(A)) of imitated actions, of mean one, (B,): Peng et al. 2019, eq. 10.

        A = Q(s, a) − ½ Σ_i Q(s, μ̄(s, z_i)) over two draws of the clone.
        """
        observations, actions = batch.imitated_observations, batch.imitated_actions
        own = [self.average_clone(observations) for _ in range(2)]
        value = torch.stack([self.critic(observations, a).mean(0) for a in own]).mean(0)
        advantage = self.critic(observations, actions).mean(0) - value
        unit = advantage.square().mean().sqrt().clamp_min(1e-6)
        beta = self.config.advantage_weight * self.strength
        weights = (beta * advantage / unit).clamp(max=MAX_LOG_WEIGHT).exp()
        return weights / weights.mean()  # type: ignore[no-any-return]

    def clone_loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        """E[w(s, a) L_consistency(a | s)]."""
        weights = self.advantage_weights(batch)
        observations, actions = batch.imitated_observations, batch.imitated_actions
        loss = self.clone.loss(observations, actions, self.progress, weights)
        effective = weights.sum().square() / weights.square().sum() / len(weights)
        return loss, {"clone/loss": loss.detach(), "clone/effective_share": effective}

    def actor_loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        """E[½‖a − μ̄(s, z)‖² − r ∇_a Q/E‖∇_a Q‖ · a], a = a_θ(s, z), in units of half the range.

        Its minimum is one step of length r, on average, from the clone along the gradient.
        """
        observations = batch.imitated_observations
        half_range = self.policy.bound.half_range
        shape = (len(observations), self.policy.sampler.steps, self.policy.action_dim)
        noise = normal(shape, observations)
        actions = self.policy(observations, noise=noise)
        with torch.no_grad():
            anchor = self.average_clone(observations, noise=noise)

        def value(a: Tensor) -> tuple[Tensor, Tensor]:
            q = self.critic(observations, a).mean(0)
            return q.sum(), q.mean()

        slope, q = torch.func.grad(value, has_aux=True)(actions.detach())
        slope = slope.detach() * half_range
        unit = torch.linalg.vector_norm(slope, dim=1).mean().clamp_min(1e-12)
        move = (actions - anchor) / half_range
        pull = (slope / unit * actions / half_range).sum(1)
        loss = move.square().sum(1) / 2 - self.config.radius * self.strength * pull
        return loss.mean(), {
            "actor/move": torch.linalg.vector_norm(move.detach(), dim=1).mean(),
            "actor/q": q.detach(),
            "actor/q_slope": unit,
        }

    def check_steps(self, steps: int | None) -> None:
        """The actor is a student of as many network calls as its policy has, and of no other.

        Raises:
            InputError: for another number.
        """
        own = self.policy.sampler.steps
        if steps not in (None, own):
            calls = "1 network call" if own == 1 else f"{own} network calls"
            raise InputError(f"agent {self.config.name} has learned to act by {calls}, got {steps}")

    def update(self, batch: TransitionBatch) -> Metrics:
        """Critics, their targets; the clone; the actor; the averages of both."""
        critic_metrics = self.minimize("critic", self.critic_loss, batch)
        ema_update(self.target_critic, self.critic, 1 - self.config.tau)
        clone_metrics = self.minimize("clone", self.clone_loss, batch)
        self.clone.update_target(self.progress)
        ema_update(self.average_clone, self.clone, self.average_decay)
        actor_metrics = self.minimize("policy", self.actor_loss, batch)
        self.finish_step()
        return {**critic_metrics, **clone_metrics, **actor_metrics}
