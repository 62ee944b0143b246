"""What every agent shares: a policy, its average, optimisers, and the count of updates."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from cmpolicy.array_types import FloatArray
from cmpolicy.consistency.ema import ema_update, rising_decay
from cmpolicy.consistency.randomness import draw_softmax
from cmpolicy.consistency.sampling import few_step_levels
from cmpolicy.datasets.transitions import TransitionBatch, TransitionDataset
from cmpolicy.datasets.windows import windowed
from cmpolicy.errors import InputError, one_line
from cmpolicy.policy.config import PolicyConfig
from cmpolicy.policy.consistency_policy import ConsistencyPolicy

M = TypeVar("M", bound=nn.Module)
F = TypeVar("F", bound=Callable[..., Any])
Metrics = dict[str, Tensor]  # scalars on the device; nobody reads them between two logs
LossFunction = Callable[..., tuple[Tensor, Metrics]]  # a pure function of modules and inputs
AVERAGED_SHARE = 0.025  # of the training, over which weights are averaged
LOWEST_RATE = 0.01  # of `cosine_decay`; not 0: an agent may go on in the environment


class Spaces(NamedTuple):
    """What an agent must know of its environment."""

    obs_dim: int
    action_low: list[float]
    action_high: list[float]

    @property
    def action_dim(self) -> int:
        """Size of an action."""
        return len(self.action_low)


@dataclass
class AgentConfig:
    """Hyperparameters that every agent has.

    Attributes:
        algorithm: which agent, a name in `cmpolicy.agents.AGENTS`.
        name: of this configuration of it, for the run and the results.
        policy: see `PolicyConfig`.
        learning_rate: of AdamW, for the policy.
        weight_decay: of AdamW, over the whole training: without gradients the policy's weights
            would shrink by exp(−weight_decay), however long the training is.
        cosine_decay: let learning rates fall to a hundredth over the training.
        ema_decay: of the averaged policy that acts, an update; it rises at first, see
            `rising_decay`. None for an average over `AVERAGED_SHARE` of the training.
        mode_of: actions drawn an observation when acting, of which the mode is taken, see
            `ConsistencyPolicy.mode`; 1 for a plain sample.
        max_grad_norm: gradients are clipped to this norm, network by network; 0 for never.
    """

    algorithm: str = "agent"
    name: str = "agent"
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    cosine_decay: bool = False
    ema_decay: float | None = None
    mode_of: int = 32
    max_grad_norm: float = 0.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or not 0 <= (self.ema_decay or 0.0) < 1:
            raise ValueError(
                "need learning_rate > 0 and 0 ≤ ema_decay < 1, got "
                f"{self.learning_rate} and {self.ema_decay}"
            )
        if self.weight_decay < 0 or self.max_grad_norm < 0:
            raise ValueError(
                "need weight_decay ≥ 0 and max_grad_norm ≥ 0, got "
                f"{self.weight_decay} and {self.max_grad_norm}"
            )
        if self.mode_of < 1:
            raise ValueError(f"need mode_of ≥ 1, got {self.mode_of}")


class Agent(nn.Module):
    """A learner for one seed. A subclass writes its losses and `update`.

    Attributes:
        policy: the actor that is trained.
        average_policy: its exponential moving average, which acts.
        candidates: actions drawn when acting, of which one is taken.
        generators: where it draws from, if not from torch's own.
        vectorize: maps a function of this agent's modules and a batch over seeds, where there are
            several, see `cmpolicy.acceleration.stacked_agents`; the function itself for one.
        optimizers, learning_rates: of each network that trains, by name.
        step: number of updates done, () int64 on the device.
        total_steps: length K of the training, for curricula.
    """

    Config: ClassVar[type[AgentConfig]] = AgentConfig
    Policy: ClassVar[type[ConsistencyPolicy]] = ConsistencyPolicy
    generators: ClassVar[Sequence[torch.Generator]] = ()
    step: Tensor

    def __init__(self, spaces: Spaces, config: AgentConfig, total_steps: int) -> None:
        super().__init__()
        self.config = config
        self.candidates: int = getattr(config, "candidates", 1)
        self.policy = self.make_policy(spaces)
        self.average_policy = frozen_copy(self.policy)
        self.total_steps = total_steps
        self.vectorize: Callable[[F], F] = identity
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.learning_rates: dict[str, float] = {}
        self.add_optimizer("policy", self.policy, config.learning_rate, config.weight_decay)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def make_policy(self, spaces: Spaces) -> ConsistencyPolicy:
        """An untrained policy, which acts as the agent does; without a choice by critics."""
        obs_dim, low, high = spaces
        mode_of = self.config.mode_of if self.candidates == 1 else 1
        return self.Policy(obs_dim, len(low), low, high, self.config.policy, mode_of=mode_of)

    def prepare(self, dataset: TransitionDataset) -> TransitionDataset:
        """Before the first update: measure statistics, give the data in the policy's windows."""
        dataset = windowed(dataset, self.policy.window.history, self.policy.window.horizon)
        for policy in (self.policy, self.average_policy):
            policy.fit_normalizers(dataset.measured, dataset.actions)
        return dataset

    @property
    def progress(self) -> Tensor:
        """k/K ∈ [0, 1], () float32 on the device."""
        return (self.step.float() / self.total_steps).clamp(max=1.0)

    @property
    def average_decay(self) -> float | Tensor:
        """Decay of the averages at this update, EMA with warm-up."""
        decay = self.config.ema_decay
        if decay is None:
            decay = max(0.0, 1 - 1 / (AVERAGED_SHARE * self.total_steps))
        return rising_decay(decay, self.step)

    def add_optimizer(
        self, name: str, module: nn.Module, learning_rate: float, weight_decay: float = 0.0
    ) -> None:
        """AdamW for a network that trains; `weight_decay` is that of the whole training."""
        self.learning_rates[name] = learning_rate
        full = float(self.total_steps)  # updates at the full rate with as large a sum of rates
        if self.config.cosine_decay:
            full = (full * (1 + LOWEST_RATE) + 1 - LOWEST_RATE) / 2
        # AdamW shrinks weights to 1 − rate · decay an update, which must not pass 0
        decay = -math.expm1(-weight_decay / full) / learning_rate
        own = [p for p in module.parameters() if p.requires_grad]
        adam = torch.optim.AdamW(own, learning_rate, weight_decay=decay, fused=True)
        self.optimizers[name] = adam

    def scheduled(self, learning_rate: float) -> float | Tensor:
        """A rate at the next update: constant, or Loshchilov & Hutter 2017, eq. 5."""
        if not self.config.cosine_decay:
            return learning_rate
        lowest = learning_rate * LOWEST_RATE
        return lowest + (learning_rate - lowest) * (1 + torch.cos(math.pi * self.progress)) / 2

    def update(self, batch: TransitionBatch) -> Metrics:
        """One update of everything; returns scalars that stay on the device."""
        raise NotImplementedError

    def limits(self) -> dict[str, tuple[float, str]]:
        """Scalars of `update` that stay below a bound: (bound, what it is and what to try)."""
        return {}

    @property
    def core(self) -> Agent:
        """What `update` trains: this agent."""
        return self

    def minimize(self, name: str, loss: LossFunction, *inputs: Any) -> Metrics:
        """One optimiser step on `loss(*inputs)`, for the parameters of optimiser `name` alone.

        Gradients of nothing else are computed, so an actor's loss costs no critic's gradients.
        Returns the metrics that `loss` gives beside its value.
        """
        optimizer = self.optimizers[name]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients, metrics = differentiate(self.vectorize(loss), parameters, *inputs)
        if self.config.max_grad_norm > 0:
            clip = functools.partial(clip_norm, self.config.max_grad_norm)
            gradients = self.vectorize(clip)(*gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = self.scheduled(self.learning_rates[name])
        optimizer.step()
        return metrics

    def finish_step(self) -> None:
        """Move the averages of the policy and count the update."""
        self.policy.update_target(self.progress)
        ema_update(self.average_policy, self.policy, self.average_decay)
        self.step += 1

    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """How good actions are, (B,), for choosing among candidates.

        Raises:
            InputError: for an agent without a critic.
        """
        raise InputError(f"agent {self.config.name} has no critic to choose actions by")

    def check_steps(self, steps: int | None) -> None:
        """Refuse a number of network calls that the policy has not learned; most learn any."""

    @torch.inference_mode()
    def act(
        self,
        observations: FloatArray,
        *,
        best_of: int | None = None,
        mode_of: int | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> FloatArray:
        """Actions of the averaged policy: (N, obs_dim) → (N, action_dim), both of its `window`.

        Args:
            best_of: candidates an observation, of which `value` picks the best; if not given,
                the agent's own `candidates`, one of which is taken with probability ∝ exp value.
            mode_of: actions an observation, whose mode is taken; if not given, the
                configuration's. Not where there are candidates.
            steps: network calls an action, if not those of the policy; see `check_steps`.
        """
        obs = torch.from_numpy(observations).to(self.step.device)
        how: Any = {"best_of": best_of, "mode_of": mode_of, "steps": steps}
        return self.choose(obs, **how, generator=generator).cpu().numpy()

    def choose(
        self,
        obs: Tensor,
        *,
        best_of: int | None = None,
        mode_of: int | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """What `act` gives, on the device: (N, obs_dim) → (N, action_dim)."""
        self.check_steps(steps)
        policy = self.average_policy
        levels = None if steps is None else few_step_levels(steps, policy.parameterization)
        candidates = best_of or self.candidates
        samples = mode_of or self.config.mode_of
        if candidates == 1 and samples > 1:
            return policy.mode(obs, samples, levels=levels)
        obs = obs.repeat_interleave(candidates, dim=0)
        actions: Tensor = policy(obs, levels=levels, generator=generator)
        if candidates > 1:
            values = self.value(obs, actions).view(-1, candidates)
            chosen = values.argmax(1) if best_of else draw_softmax(values, generator)
            rows = torch.arange(len(chosen), device=chosen.device)
            actions = actions.view(*values.shape, -1)[rows, chosen]
        return actions

    def training_state(self) -> dict[str, Any]:
        """Everything that a resumed training needs, and `ConsistencyPolicy.load`."""
        optimizers = {name: o.state_dict() for name, o in self.optimizers.items()}
        policy = self.average_policy.arguments
        return {"modules": dict(self.state_dict()), "optimizers": optimizers, "policy": policy}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `training_state` gave.

        Raises:
            InputError: if it is another agent's.
        """
        try:
            self.load_state_dict(state["modules"])
            for name, optimizer in self.optimizers.items():
                decays = [group["weight_decay"] for group in optimizer.param_groups]
                optimizer.load_state_dict(state["optimizers"][name])
                for group, decay in zip(optimizer.param_groups, decays, strict=True):
                    group["weight_decay"] = decay  # by the length of training, which may be another
        except (KeyError, RuntimeError, ValueError) as error:
            agent, reason = self.config.name, one_line(error)
            raise InputError(f"the checkpoint does not fit agent {agent}: {reason}") from error


def differentiate(
    loss: LossFunction, parameters: Sequence[Tensor], *inputs: Any
) -> tuple[tuple[Tensor, ...], Metrics]:
    """The gradients of `loss(*inputs)` with respect to `parameters`, and its metrics.

    Where the loss is a vector of several seeds' losses, of parameters of their own, each gets its
    gradient.
    """
    value, metrics = loss(*inputs)
    gradients = torch.autograd.grad(value.sum(), parameters)
    # On a CPU the fused Adam reads a gradient in the order of memory, whatever its strides.
    return tuple(gradient.contiguous() for gradient in gradients), metrics


def identity(function: F) -> F:
    """What `vectorize` is for one seed."""
    return function


def clip_norm(max_norm: float, *gradients: Tensor) -> tuple[Tensor, ...]:
    """Gradients scaled down, if need be, such that the norm of all of them is `max_norm`."""
    norms = torch.stack([torch.linalg.vector_norm(g) for g in gradients])
    scale = (max_norm / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1.0)
    return tuple(gradient * scale for gradient in gradients)


def frozen_copy(module: M) -> M:
    """A copy that starts equal and takes no gradient."""
    return copy.deepcopy(module).requires_grad_(False)
