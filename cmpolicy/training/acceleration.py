"""How updates are carried out: operation by operation, compiled, or as CUDA graphs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from cmpolicy.errors import InputError
from cmpolicy.networks.caller import Caller
from cmpolicy.networks.linear import bfloat16_products
from cmpolicy.training.loop import Advance, Dataset, Learner

log = logging.getLogger("cmpolicy")
ACCELERATIONS = ("auto", "graph", "compile", "off")
# Compiling takes about half a minute of a CPU and saves about a third of each update: it has paid
# for itself after some 10,000.
WORTH_COMPILING = 20_000
WARM_UPS = 3  # eager updates before a capture, in which libraries and optimisers allocate
UPDATES_A_REPLAY = 10

Metrics = Mapping[str, Tensor]
Gradients = tuple[tuple[Tensor, ...], dict[str, Tensor]]  # and metrics


@runtime_checkable
class Compilable(Protocol):
    """A learner whose losses are functions of tensors alone: the same operations every time."""

    differentiate: Callable[..., Gradients]


@runtime_checkable
class Graphable(Compilable, Protocol):
    """A learner whose whole update is, random numbers of torch's generator included."""

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
    if not isinstance(learner.differentiate, CompiledGradients):
        log.info("the first update compiles, which takes about half a minute")
        learner.differentiate = CompiledGradients(learner)
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


class CompiledGradients:
    """An agent's `differentiate`, each loss with its backward pass as one compiled graph.

    torch.compile of a loss computes the gradients of all that requires them, of critics in an
    actor's loss too, and checks at every call, in a tenth of the update's time, whether anything
    has changed. Here the loss is traced with its gradients, as a function of all parameters and
    buffers; a name and shapes identify it. Random numbers are those of the eager update.

    Where it does not compile, for want of a C++ compiler for instance, the agent goes on without.
    """

    def __init__(self, learner: Compilable) -> None:
        assert isinstance(learner, nn.Module)
        self.caller = Caller(learner)
        self.learner, self.eager = learner, learner.differentiate
        self.compiled: dict[Any, Callable[..., Gradients]] = {}

    def __call__(
        self, loss: Callable[..., Any], parameters: Sequence[Tensor], *inputs: Any
    ) -> Gradients:
        flat = pytree.tree_leaves(inputs)
        key = (loss.__name__, *((t.shape, t.dtype) for t in flat))
        if key not in self.compiled:
            try:
                with warnings.catch_warnings():  # of deprecations inside the compiler
                    warnings.simplefilter("ignore")
                    self.compiled[key] = self.compile(loss, parameters, inputs)
            except Exception as error:  # a compiler fails in its own ways
                reason = " ".join(str(error).split())[:200]
                log.warning("compiling failed, going on without: %s", reason)
                self.learner.differentiate = self.eager
                return self.eager(loss, parameters, *inputs)
        return self.compiled[key](flat)

    def compile(
        self, loss: Callable[..., Any], parameters: Sequence[Tensor], inputs: Any
    ) -> Callable[..., Gradients]:
        """The compiled form of `differentiate(loss, parameters, *inputs)`, of flat inputs."""
        from torch._inductor import compile as compile_graph  # slow to import

        named = dict([*self.caller.named_parameters(), *self.caller.named_buffers()])
        place = {id(tensor): i for i, tensor in enumerate(named.values())}
        moved = [place[id(parameter)] for parameter in parameters]
        flat, structure = pytree.tree_flatten(inputs)
        keys: list[str] = []

        def traced(*arguments: Tensor) -> list[Tensor]:
            own = [t.detach() for t in arguments[: len(named)]]
            for i in moved:
                own[i].requires_grad_()
            given = pytree.tree_unflatten(list(arguments[len(named) :]), structure)
            gradients, metrics = functional_call(
                self.caller,
                dict(zip(named, own, strict=True)),
                (self.eager, loss, [own[i] for i in moved], *given),
            )
            keys[:] = metrics
            # a fused Adam on a CPU reads gradients in the order of memory, whatever their strides
            return [g.contiguous() for g in gradients] + list(metrics.values())

        tensors = [t.detach() for t in named.values()]
        cuda = [t.device for t in tensors[:1] if t.is_cuda]
        with torch.random.fork_rng(cuda):  # tracing computes the loss once
            graph = make_fx(traced)(*tensors, *flat)
        used = drop_unused_inputs(graph, len(tensors))
        tensors = [tensors[i] for i in used]
        function = compile_graph(graph, [*tensors, *flat], {"fallback_random": True})
        count = len(parameters)

        def compiled(flat: list[Tensor]) -> Gradients:
            out = function(*tensors, *flat)
            return tuple(out[:count]), dict(zip(keys, out[count:], strict=True))

        return compiled


def drop_unused_inputs(graph: torch.fx.GraphModule, count: int) -> list[int]:
    """Remove those of the first `count` inputs that nothing reads; returns which remain."""
    graph.graph.eliminate_dead_code()
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"][:count]
    used = [i for i, node in enumerate(inputs) if node.users]
    for node in inputs:
        if not node.users:
            graph.graph.erase_node(node)
    graph.recompile()
    return used
