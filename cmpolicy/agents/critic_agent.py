"""What agents with critics share: Q and its target, n-step data, the scale of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from cmpolicy.agents.agent import Agent, AgentConfig, Metrics, Spaces, frozen_copy
from cmpolicy.datasets.n_step_returns import discounted_returns, n_step
from cmpolicy.datasets.transitions import TransitionBatch, TransitionDataset
from cmpolicy.networks.critic import EnsembleCritic
from cmpolicy.networks.mlp import ACTIVATIONS

DIVERGENCE_RATIO = 10.0  # |Q| beyond this many times the largest return in the data is divergence


@dataclass
class CriticConfig(AgentConfig):
    """Hyperparameters that every agent with critics has.

    Attributes:
        discount: γ.
        n_step: length of the critics' targets, in steps of one episode, or in chunks.
        tau: rate at which the target critic follows.
        critic_learning_rate: of Adam, for the critics.
        critic_hidden, critic_ensemble, critic_activation, critic_layer_norm: see `EnsembleCritic`.
        candidates: actions drawn an observation when acting; one is taken with probability
            ∝ exp Q.
    """

    discount: float = 0.99
    n_step: int = 1
    tau: float = 0.005
    critic_learning_rate: float = 3e-4
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256])
    critic_ensemble: int = 2
    critic_activation: str = "silu"
    critic_layer_norm: bool = True
    candidates: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.discount < 1 or not 0 < self.tau <= 1:
            raise ValueError(
                f"need 0 ≤ discount < 1 and 0 < tau ≤ 1, got {self.discount} and {self.tau}"
            )
        if self.critic_activation not in ACTIVATIONS:
            raise ValueError(
                f"unknown critic_activation {self.critic_activation!r}, "
                f"expected one of {', '.join(ACTIVATIONS)}"
            )
        counts = (self.n_step, self.candidates, self.critic_ensemble, *self.critic_hidden)
        if min(counts) < 1 or self.critic_learning_rate <= 0:
            raise ValueError(
                "n_step, candidates, critic_ensemble, critic_hidden and critic_learning_rate "
                "must be positive"
            )


class CriticAgent(Agent):
    """An agent with critics Q_e(s, a) and their slowly moving copies Q'_e.

    Attributes:
        reward_scale: what rewards are multiplied by in targets, ().
        largest_return: the largest |Σ_i γ^i r_{t+i}| in the data, scaled, (); where a time limit
            cut an episode, at least that of the mean |r| for ever.
    """

    Config: ClassVar[type[AgentConfig]] = CriticConfig
    config: CriticConfig
    reward_scale: Tensor
    largest_return: Tensor

    def __init__(self, spaces: Spaces, config: CriticConfig, total_steps: int) -> None:
        super().__init__(spaces, config, total_steps)
        self.critic = self.make_critic(self.policy.action_dim, config.critic_ensemble)
        self.target_critic = frozen_copy(self.critic)
        self.register_buffer("reward_scale", torch.ones(()))
        self.register_buffer("largest_return", torch.zeros(()))
        self.add_optimizer("critic", self.critic, config.critic_learning_rate)

    def make_critic(self, action_dim: int, ensemble: int) -> EnsembleCritic:
        """A network of values; with no action, of states alone."""
        config = self.config
        critic = EnsembleCritic(
            self.policy.obs_dim,
            action_dim,
            config.critic_hidden,
            ensemble,
            config.critic_activation,
            config.critic_layer_norm,
        )
        if action_dim:
            critic.action_center.copy_(self.policy.bound.center)
            critic.action_half_range.copy_(self.policy.bound.half_range)
        return critic

    def prepare(self, dataset: TransitionDataset) -> TransitionDataset:
        """Measure the statistics; the data becomes transitions over `n_step` steps.

        A step of them is what `execute` actions do, so that one backup is that of a chunk: its
        rewards, and one bootstrap (Li et al. 2025, eq. 7).
        """
        dataset = super().prepare(dataset)
        for module in self.modules():
            if isinstance(module, EnsembleCritic):
                module.obs_mean.copy_(self.policy.obs_mean)
                module.obs_std.copy_(self.policy.obs_std)
        self.reward_scale.fill_(self.scale_of_rewards(dataset))
        self.largest_return.zero_()
        self.widen_limits(dataset.rewards, dataset.stops)
        if (dataset.episode_ends & (dataset.terminals == 0)).any():
            forever = dataset.rewards.abs().mean() / (1 - self.config.discount)
            largest = torch.maximum(self.largest_return, self.reward_scale * forever)
            self.largest_return.copy_(largest)
        steps = self.config.n_step * self.policy.window.execute
        return n_step(dataset, steps, self.config.discount)

    def widen_limits(self, rewards: Tensor, stops: Tensor) -> None:
        """Take the returns of whole episodes into `largest_return`: (N,), (N,) bool."""
        returns = discounted_returns(rewards, stops, self.config.discount)
        largest = self.reward_scale * returns.abs().max().to(self.reward_scale)
        self.largest_return.copy_(torch.maximum(self.largest_return, largest))

    def scale_of_rewards(self, dataset: TransitionDataset) -> float | Tensor:
        """`reward_scale` for this data."""
        return 1.0

    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min_e Q'_e(s, a), (B,)."""
        return self.target_critic(observations, actions).amin(0)  # type: ignore[no-any-return]

    def squared_error(self, batch: TransitionBatch, y: Tensor) -> tuple[Tensor, Metrics]:
        """Σ_e E[(Q_e(s, a) − y)²] for targets y, (B,)."""
        q = self.critic(batch.observations, batch.actions)
        loss = (q - y).square().mean(1).sum()
        q = q.detach()
        return loss, {
            "critic/loss": loss.detach(),
            "critic/q": q.mean(),
            "critic/q_max": q.abs().max(),
        }

    def limits(self) -> dict[str, tuple[float, str]]:
        """|Q| stays below ten times the largest discounted return in the data.

        An untrained network's values are of order one, so the bound is not below ten.
        """
        bound = DIVERGENCE_RATIO * max(float(self.largest_return), 1.0)
        meaning = (
            f"the limit is {DIVERGENCE_RATIO:g} × the largest discounted return in the data; "
            "try a smaller "
            "critic_learning_rate, tau or discount"
        )
        return {"critic/q_max": (bound, meaning)}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `training_state` gave; older states lack the scales, which are kept."""
        kept = {"reward_scale": self.reward_scale, "largest_return": self.largest_return}
        modules = {**kept, **state.get("modules", {})}
        super().load_training_state({**state, "modules": modules})
