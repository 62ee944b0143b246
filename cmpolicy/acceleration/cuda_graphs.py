"""Updates as CUDA graphs, several per replay."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from cmpolicy.acceleration.compiled_update import Compilable, UpdateMetrics
from cmpolicy.acceleration.updates import Updates

WARM_UPS = 3  # eager updates before a capture, in which libraries and optimisers allocate
UPDATES_PER_REPLAY = 10


class GraphedUpdates:
    """Updates as CUDA graphs, several per replay, in which batches are drawn as well.

    The first updates are eager, on the side stream that a capture needs. A graph reads and writes
    the tensors of its capture: load no state into the learner between two calls. Random numbers
    go on from torch's generator of the device, or from those of the stacked seeds.
    """

    def __init__(self, updates: Updates, learner: Compilable) -> None:
        self.updates, self.generators = updates, learner.generators
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.warm = 0
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, UpdateMetrics]] = {}
        for optimizer in learner.core.optimizers.values():
            for group in optimizer.param_groups:
                group["capturable"] = True

    def __call__(self, most: int) -> tuple[int, UpdateMetrics]:
        if self.warm < WARM_UPS:
            self.warm += 1
            return 1, self.update_on_side_stream()
        size = UPDATES_PER_REPLAY if most >= UPDATES_PER_REPLAY else 1
        if size not in self.graphs:
            self.graphs[size] = self.capture(size)
        graph, metrics = self.graphs[size]
        graph.replay()
        return size, metrics

    def update_on_side_stream(self) -> UpdateMetrics:
        """Perform an eager update on the side stream."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            metrics = self.updates.update()
        torch.cuda.current_stream().wait_stream(self.stream)
        return metrics

    def capture(self, size: int) -> tuple[torch.cuda.CUDAGraph, UpdateMetrics]:
        """Record `size` updates without performing them."""
        graph: Any = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        metrics: UpdateMetrics = {}
        with torch.cuda.graph(graph):
            for _ in range(size):
                metrics = self.updates.update()
        return graph, metrics
