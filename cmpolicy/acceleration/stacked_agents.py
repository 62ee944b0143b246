"""Agents of several seeds updated as one: parameters are stacked, losses mapped by `vmap`.

Seeds differ in parameters, states of optimisers, and random numbers. They share buffers: statistics
of the data and the count of updates. Optimisers and averages are elementwise and take stacked
parameters as they are; the sum of the losses is differentiated.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from cmpolicy.acceleration.compiled_update import FunctionalModule, parameters_of
from cmpolicy.agents.agent import Agent, Metrics
from cmpolicy.array_types import FloatArray
from cmpolicy.consistency.randomness import RecordedNoise, drawing_from, noise_requests
from cmpolicy.datasets.transitions import TransitionBatch

F = TypeVar("F", bound=Callable[..., Any])
Optimized = tuple[torch.optim.Optimizer, Tensor]  # and one of its parameters
SHARED = {"step"}  # of Adam's state: the count of updates


class StackedAgents(nn.Module):
    """R agents of one configuration that a single `update` trains.

    As a module it has the stacked parameters, the buffers, and the random numbers of an update.

    The parameters of each agent become views into the stacked ones, so each still acts and is
    saved by itself. Trained alone it would be the same up to the order of sums in products.

    Args:
        agents: equal but for their parameters, after the same number of updates; the buffers of
            the first one hold for all.
        generators: one for each agent to draw from.
    """

    def __init__(self, agents: Sequence[Agent], generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.agents, self.generators = list(agents), list(generators)
        self.stacked = copy.deepcopy(self.agents[0])
        self.stacked.vectorize = self.over_seeds
        update = self.replaying(self.stacked.update)
        self.stacked.update = update  # type: ignore[assignment, method-assign]
        self.recording: RecordedNoise | None = None
        self.gather_parameters()
        self.gather_optimizers()

    @property
    def core(self) -> Agent:
        """The stacked agent, which draws from the recording."""
        return self.stacked

    def update(self, batch: TransitionBatch) -> Metrics:
        """Update every seed: batches (R, B, …) → metrics (R,)."""
        if self.recording is None:
            probe = copy.deepcopy(self.agents[0])
            first = TransitionBatch(*(column[0] for column in batch))
            self.recording = RecordedNoise(
                noise_requests(lambda: probe.update(first)), len(self.agents)
            )
            for i, numbers in enumerate(self.recording.numbers):
                self.register_buffer(f"drawn_{i}", numbers, persistent=False)
        self.recording.record(self.generators)
        metrics = self.stacked.update(batch)
        if not self.optimizers_shared:
            self.share_optimizers()
        return metrics

    def replaying(
        self, update: Callable[[TransitionBatch], Metrics]
    ) -> Callable[[TransitionBatch], Metrics]:
        """Wrap `update` so that it reads the whole recording, from its beginning."""

        def read_all(batch: TransitionBatch) -> Metrics:
            assert self.recording is not None, "recording comes first"
            self.recording.position = 0  # a failed compiler may have read some of it
            metrics = update(batch)
            self.recording.check_read()
            return metrics

        return read_all

    def act_with(self, generators: Sequence[torch.Generator]) -> Callable[[FloatArray], FloatArray]:
        """Make a function that acts for all seeds: (R, N, obs_dim) → (R, N, action_dim).

        Each seed draws from its own generator what its agent's `act` would draw.
        """
        recording: RecordedNoise | None = None

        @torch.inference_mode()
        def act(observations: FloatArray) -> FloatArray:
            nonlocal recording
            obs = torch.from_numpy(observations).to(self.stacked.step.device)
            if recording is None:
                recording = RecordedNoise(
                    noise_requests(lambda: self.agents[0].choose(obs[0])), len(self.agents)
                )
            recording.record(generators)
            choose = self.mapped(self.stacked.choose, recording, recording.numbers)
            actions: FloatArray = choose(obs).cpu().numpy()
            recording.check_read()
            return actions

        return act

    def over_seeds(self, function: F) -> F:
        """Map a function of modules, inputs (R, …) and draws over the seeds: outputs (R, …)."""
        recording = self.recording
        assert recording is not None, "update comes first"
        begin = recording.position

        @functools.wraps(function)
        def of_all(*inputs: Any) -> Any:
            # Looked up here, because tracing replaces them.
            numbers = [self.get_buffer(f"drawn_{i}") for i in range(len(recording.numbers))]
            recording.position = begin
            return self.mapped(function, recording, numbers)(*inputs)

        return of_all  # type: ignore[return-value]

    def mapped(self, function: F, recording: RecordedNoise, numbers: list[Tensor]) -> F:
        """See `over_seeds`; `numbers` are the draws of `recording`."""
        caller = FunctionalModule(self.stacked)

        def of_one(parameters: dict[str, Tensor], numbers: list[Tensor], inputs: Any) -> Any:
            with drawing_from(recording.source(numbers)):
                return functional_call(caller, parameters, (function, *inputs), tie_weights=False)

        def of_all(*inputs: Any) -> Any:
            return vmap(of_one)(dict(caller.named_parameters()), numbers, inputs)

        return of_all  # type: ignore[return-value]

    def gather_parameters(self) -> None:
        """Stack the agents' parameters, and make theirs views."""
        rows = [dict(agent.named_parameters()) for agent in self.agents]
        with torch.no_grad():
            for name, parameter in self.stacked.named_parameters():
                parameter.data = torch.stack([row[name] for row in rows])
                for row, view in zip(rows, parameter.data.unbind(), strict=True):
                    row[name].data = view
        for name, buffer in self.agents[0].named_buffers():
            for agent in (self.stacked, *self.agents):
                path, _, leaf = name.rpartition(".")
                setattr(agent.get_submodule(path), leaf, buffer)

    def gather_optimizers(self) -> None:
        """Stack the states of the agents' optimisers."""
        for (optimizer, stacked), *own in self.optimized():
            states = [one.state.get(p, {}) for one, p in own]
            optimizer.state[stacked] = {
                key: value.clone() if key in SHARED else torch.stack([s[key] for s in states])
                for key, value in states[0].items()
            }
        self.optimizers_shared = False

    def share_optimizers(self) -> None:
        """Make the states of the agents' optimisers views into the stacked ones."""
        for (optimizer, stacked), *own in self.optimized():
            for i, (one, p) in enumerate(own):
                one.state[p] = {
                    key: value if key in SHARED else value[i]
                    for key, value in optimizer.state[stacked].items()
                }
        self.optimizers_shared = True

    def optimized(self) -> Iterator[tuple[Optimized, ...]]:
        """For each optimised parameter: the stacked one, then each agent's."""
        for name in self.stacked.optimizers:
            optimizers = [agent.optimizers[name] for agent in (self.stacked, *self.agents)]
            for row in zip(*map(parameters_of, optimizers), strict=True):
                yield tuple(zip(optimizers, row, strict=True))

    def limits(self) -> dict[str, tuple[float, str]]:
        """None: each agent has its own."""
        return {}

    def training_state(self) -> dict[str, Any]:
        """Everything that a resumed training needs, by agent."""
        return {"agents": [agent.training_state() for agent in self.agents]}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `training_state` gave.

        Raises:
            InputError: if it is another agent's.
        """
        for agent, own in zip(self.agents, state["agents"], strict=True):
            agent.load_training_state(own)
        self.gather_optimizers()
