"""How updates are carried out: operation by operation, compiled, or as CUDA graphs."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch

from cmpolicy.errors import InputError
from cmpolicy.networks.linear import bfloat16_products
from cmpolicy.training.compilation import Compilable, CompiledUpdate, Metrics
from cmpolicy.training.loop import Advance, Dataset, Learner

log = logging.getLogger("cmpolicy")
ACCELERATIONS = ("auto", "graph", "compiled_graph", "compile", "off")
# Compiling takes up to three quarters of a minute of a CPU and saves more than a third of every
# update: it has paid for itself after some 6,000.
WORTH_COMPILING = 20_000
WARM_UPS = 3  # eager updates before a capture, in which libraries and optimisers allocate
UPDATES_A_REPLAY = 10


def check_acceleration(name: str) -> None:
    """Raise ValueError unless it is known."""
    if name not in ACCELERATIONS:
        raise ValueError(f"unknown accelerate {name!r}, expected one of {', '.join(ACCELERATIONS)}")


def resolve_acceleration(
    name: str, learner: Learner, device: torch.device, updates: int, *, growing: bool = False
) -> str:
    """What `name` means for a run of so many updates: one of ACCELERATIONS but ``auto``.

    Data that grows between updates is drawn from outside, so it cannot be part of a graph. A
    resumed run must come out as one in a single sitting, so `updates` is its whole length.

    Raises:
        InputError: if the learner or the device does not have it.
    """
    able, graph = isinstance(learner, Compilable), name in ("graph", "compiled_graph")
    if name == "auto":
        worth = able and updates >= WORTH_COMPILING
        if device.type != "cuda" or growing or not able:
            return "compile" if worth else "off"
        return "compiled_graph" if worth else "graph"
    if name != "off" and not able:
        raise InputError(f"accelerate={name} is for agents; give accelerate=off")
    if graph and growing:
        raise InputError(f"accelerate={name} is for data that does not grow; give compile or off")
    if graph and device.type != "cuda":
        raise InputError(f"accelerate={name} is for CUDA, got device {device}; give compile or off")
    return name


def accelerated(
    learner: Learner, dataset: Dataset, batch_size: int, acceleration: str, precision: str
) -> Advance:
    """What the loop updates `learner` with, as `acceleration` and `precision` were resolved."""
    updates = Updates(learner, dataset, batch_size, rounded=precision == "bf16")
    if acceleration == "off":
        return updates
    assert isinstance(learner, Compilable)
    compiled = acceleration in ("compile", "compiled_graph")
    if compiled and not isinstance(learner.core.update, CompiledUpdate):
        log.info("the update is compiled first, which takes up to a minute")
        learner.core.update = CompiledUpdate(learner)
    return updates if acceleration == "compile" else GraphedUpdates(updates, learner)


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
    the learner between two calls. Random numbers go on where torch's generator of the device is,
    or where the generators of stacked seeds are.
    """

    def __init__(self, updates: Updates, learner: Compilable) -> None:
        self.updates, self.generators = updates, learner.generators
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.warm = 0
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Metrics]] = {}
        for optimizer in learner.core.optimizers.values():
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
        with torch.cuda.stream(self.stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            metrics = self.updates.update()
        torch.cuda.current_stream().wait_stream(self.stream)
        return metrics

    def capture(self, size: int) -> tuple[torch.cuda.CUDAGraph, Metrics]:
        """Record `size` updates, none of which is carried out."""
        graph: Any = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        metrics: Metrics = {}
        with torch.cuda.graph(graph):
            for _ in range(size):
                metrics = self.updates.update()
        return graph, metrics
