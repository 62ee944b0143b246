"""How updates are carried out: operation by operation, compiled, or as CUDA graphs."""

from __future__ import annotations

import logging
from typing import Protocol, runtime_checkable

import torch

from cmpolicy.errors import InputError
from cmpolicy.networks.linear import bfloat16_products
from cmpolicy.training.compilation import Compilable, CompiledUpdate, Metrics
from cmpolicy.training.loop import Advance, Dataset, Learner

log = logging.getLogger("cmpolicy")
ACCELERATIONS = ("auto", "graph", "compile", "off")
# Compiling takes up to three quarters of a minute of a CPU and saves more than a third of every
# update: it has paid for itself after some 6,000.
WORTH_COMPILING = 20_000
WARM_UPS = 3  # eager updates before a capture, in which libraries and optimisers allocate
UPDATES_A_REPLAY = 10


@runtime_checkable
class Graphable(Compilable, Protocol):
    """A learner that is its own core: its random numbers are torch's."""

    optimizers: dict[str, torch.optim.Optimizer]


def check_acceleration(name: str) -> None:
    """Raise ValueError unless it is known."""
    if name not in ACCELERATIONS:
        raise ValueError(f"unknown accelerate {name!r}, expected one of {', '.join(ACCELERATIONS)}")


def resolve_acceleration(
    name: str, learner: Learner, device: torch.device, updates: int, *, growing: bool = False
) -> str:
    """``graph``, ``compile`` or ``off``: what `name` means for a run of so many updates.

    Data that grows between updates is drawn from outside, so it cannot be part of a graph. A
    resumed run must come out as one in a single sitting, so `updates` is its whole length.

    Raises:
        InputError: if the learner or the device does not have it.
    """
    able = isinstance(learner, Graphable)
    if name == "auto" and device.type == "cuda":
        return "graph" if able and not growing else "off"
    if name == "auto":
        worth = isinstance(learner, Compilable) and updates >= WORTH_COMPILING
        return "compile" if worth else "off"
    if name == "compile" and not isinstance(learner, Compilable):
        raise InputError("accelerate=compile is for agents; give accelerate=off")
    if name == "graph" and not able:
        raise InputError("accelerate=graph is for a single agent; give accelerate=off")
    if name == "graph" and growing:
        raise InputError("accelerate=graph is for data that does not grow; give compile or off")
    if name == "graph" and device.type != "cuda":
        raise InputError(f"accelerate=graph is for CUDA, got device {device}; give compile or off")
    return name


def accelerated(
    learner: Learner, dataset: Dataset, batch_size: int, acceleration: str, precision: str
) -> Advance:
    """What the loop updates `learner` with, as `acceleration` and `precision` were resolved."""
    updates = Updates(learner, dataset, batch_size, rounded=precision == "bf16")
    if acceleration == "off":
        return updates
    if acceleration == "graph":
        assert isinstance(learner, Graphable)
        return GraphedUpdates(updates, learner)
    assert isinstance(learner, Compilable)
    if not isinstance(learner.core.update, CompiledUpdate):
        log.info("the update is compiled first, which takes up to a minute")
        learner.core.update = CompiledUpdate(learner)
    return updates


class Updates:
    """One update after the other.

    Args:
        rounded: take large products in bfloat16, see `bfloat16_products`.
    """

    def __init__(
        self, learner: Learner, dataset: Dataset, batch_size: int, *, rounded: bool = False
    ) -> None:
        self.learner, self.dataset, self.batch_size = learner, dataset, batch_size
        self.rounded = rounded

    def update(self) -> Metrics:
        """Draw a batch and learn from it."""
        with bfloat16_products(self.rounded):
            return self.learner.update(self.dataset.sample(self.batch_size))

    def __call__(self, most: int) -> tuple[int, Metrics]:
        return 1, self.update()


class GraphedUpdates:
    """Updates as CUDA graphs, several a replay; the batch's index is drawn in the graph as well.

    The first updates are eager ones on a side stream, which capturing needs to be warm. A graph
    reads and writes the tensors that were there when it was captured: no state may be loaded into
    the learner between two calls. Random numbers go on where torch's generator of the device is.
    """

    def __init__(self, updates: Updates, learner: Graphable) -> None:
        self.updates = updates
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.warm = 0
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Metrics]] = {}
        for optimizer in learner.optimizers.values():
            for group in optimizer.param_groups:
                group["capturable"] = True

    def __call__(self, most: int) -> tuple[int, Metrics]:
        if self.warm < WARM_UPS:
            self.warm += 1
            return 1, self.update_aside()
        size = UPDATES_A_REPLAY if most >= UPDATES_A_REPLAY else 1
        if size not in self.graphs:
            self.graphs[size] = self.capture(size)
        graph, metrics = self.graphs[size]
        graph.replay()
        return size, metrics

    def update_aside(self) -> Metrics:
        """An eager update on the side stream."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            metrics = self.updates.update()
        torch.cuda.current_stream().wait_stream(self.stream)
        return metrics

    def capture(self, size: int) -> tuple[torch.cuda.CUDAGraph, Metrics]:
        """Record `size` updates, none of which is carried out."""
        graph = torch.cuda.CUDAGraph()
        metrics: Metrics = {}
        with torch.cuda.graph(graph):
            for _ in range(size):
                metrics = self.updates.update()
        return graph, metrics
