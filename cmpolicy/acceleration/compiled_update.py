"""An agent's whole update as one compiled graph: losses, gradients, optimisers and averages."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from cmpolicy.acceleration.functional_module import FunctionalModule

log = logging.getLogger("cmpolicy")
STATES = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter

UpdateMetrics = Mapping[str, Tensor]


class UpdatedModules(Protocol):
    """An agent, or several that are stacked."""

    optimizers: dict[str, torch.optim.Optimizer]
    update: Callable[[Any], UpdateMetrics]


@runtime_checkable
class Compilable(Protocol):
    """A learner, a module, with a core whose `update` is a function of tensors alone.

    It carries out the same operations every time, its optimisers are AdamW's. It draws from
    `generators`, or from torch's own where there are none.
    """

    @property
    def core(self) -> UpdatedModules: ...

    @property
    def generators(self) -> Sequence[torch.Generator]: ...


class CompiledUpdate:
    """The `update` of a learner's core, traced and compiled for each shape of batch.

    Operation by operation a third of an update's time goes into starting operations and into memory
    that is read once more for each of them. One graph has neither: what an optimiser does with a
    parameter and what the averages make of it is one pass. torch.compile does not see through
    optimisers, and checks at every call, in a tenth of the time, whether anything has changed.

    Random numbers are those of the eager update. Optimisers have their state from their first
    step on, so the first update of all is an eager one. Where the update does not compile, for want
    of a C++ compiler for instance, the learner goes on without.
    """

    def __init__(self, learner: Compilable) -> None:
        assert isinstance(learner, nn.Module)
        self.core = learner.core
        self.eager = self.core.update
        self.caller = FunctionalModule(learner)
        self.compiled: dict[Any, Callable[[list[Tensor], list[Tensor]], UpdateMetrics]] = {}

    def __call__(self, batch: Any) -> UpdateMetrics:
        try:
            states = self.states()
        except KeyError:
            return self.eager(batch)
        inputs, structure = pytree.tree_flatten(batch)
        key = tuple((t.shape, t.dtype) for t in inputs)
        if key not in self.compiled:
            try:
                with warnings.catch_warnings():  # of deprecations inside the compiler
                    warnings.simplefilter("ignore")
                    self.compiled[key] = self.compile(states, inputs, structure)
            except Exception as error:  # a compiler fails in its own ways
                reason = " ".join(str(error).split())[:200]
                log.warning("compiling failed, going on without: %s", reason)
                self.core.update = self.eager
                return self.eager(batch)
        return self.compiled[key](states, inputs)

    def states(self) -> list[Tensor]:
        """Of all optimisers, STATES of each parameter; KeyError before their first steps."""
        return [
            optimizer.state[parameter][name]
            for optimizer in self.core.optimizers.values()
            for parameter in parameters_of(optimizer)
            for name in STATES
        ]

    def compile(
        self, states: list[Tensor], inputs: list[Tensor], structure: pytree.TreeSpec
    ) -> Callable[[list[Tensor], list[Tensor]], UpdateMetrics]:
        """The compiled form of `update(batch)`, of the optimisers' states and a flat batch."""
        from torch._inductor import compile as compile_graph  # slow to import

        named = dict([*self.caller.named_parameters(), *self.caller.named_buffers()])
        modules = [tensor.detach() for tensor in named.values()]
        trained = {id(tensor): i for i, tensor in enumerate(named.values())}
        optimizers, names = self.core.optimizers, list[str]()

        def traced(*tensors: Tensor) -> list[Tensor]:
            unread = iter(tensors)
            own = [next(unread).detach().requires_grad_(t.requires_grad) for t in named.values()]
            stand_ins: Any = {
                name: TracedAdamW(
                    optimizer.param_groups[0],
                    [own[trained[id(p)]] for p in parameters_of(optimizer)],
                    unread,
                )
                for name, optimizer in optimizers.items()
            }
            self.core.optimizers = stand_ins
            batch = pytree.tree_unflatten(list(unread), structure)
            metrics = functional_call(
                self.caller, dict(zip(named, own, strict=True)), (self.eager, batch)
            )
            names[:] = metrics
            return list(metrics.values())

        copies = [tensor.clone() for tensor in (*modules, *states)]
        cuda = [t.device for t in modules[:1] if t.is_cuda]
        try:
            with torch.random.fork_rng(cuda):  # tracing carries out the update once, on copies
                graph = make_fx(traced, BIASES_APART)(*copies, *inputs)
        finally:
            self.core.optimizers = optimizers
        used = drop_unused_inputs(graph, len(copies))
        kept = [modules[i] for i in used if i < len(modules)]
        rest = [i - len(modules) for i in used if i >= len(modules)]
        function = compile_graph(
            graph,
            [*kept, *(states[i] for i in rest), *inputs],
            # The compiler's patterns would put the biases back into the products.
            {"fallback_random": True, "pattern_matcher": False},
        )

        def compiled(states: list[Tensor], inputs: list[Tensor]) -> UpdateMetrics:
            values = function(*kept, *(states[i] for i in rest), *inputs)
            return dict(zip(names, values, strict=True))

        return compiled


class TracedAdamW:
    """AdamW (Loshchilov & Hutter 2017, Algorithm 2) in operations that can be traced.

    Args:
        group: settings of the optimiser in whose place it is.
        parameters: what it moves.
        states: gives STATES of each of them, which it moves as well.
    """

    def __init__(
        self, group: Mapping[str, Any], parameters: Sequence[Tensor], states: Iterator[Tensor]
    ) -> None:
        self.param_groups = [{**group, "params": list(parameters)}]
        self.states = [[next(states) for _ in STATES] for _ in parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Move each parameter by its gradient."""
        (group,) = self.param_groups
        beta1, beta2 = group["betas"]
        step = self.states[0][0] + 1
        # 1 − βᵏ by way of exp: what has one in it is computed once, and not for each element.
        correction1 = 1 - (math.log(beta1) * step).exp()
        correction2 = (1 - (math.log(beta2) * step).exp()).sqrt()
        size = group["lr"] / correction1
        for parameter, (count, mean, square) in zip(group["params"], self.states, strict=True):
            gradient = parameter.grad
            count.add_(1)
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            move = mean / (square.sqrt() / correction2 + group["eps"])
            if group["weight_decay"]:
                move = move + group["weight_decay"] * correction1 * parameter
            parameter.sub_(size * move)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What it moves."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def bias_after_mm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """aten.addmm."""
    return torch.mm(a, b) + bias


def bias_after_bmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """aten.baddbmm."""
    return torch.bmm(a, b) + bias


# A product copies its bias to where it adds to it. Apart, it is added as the activation is taken.
BIASES_APART = {
    torch.ops.aten.addmm.default: bias_after_mm,
    torch.ops.aten.baddbmm.default: bias_after_bmm,
}


def drop_unused_inputs(graph: torch.fx.GraphModule, count: int) -> list[int]:
    """Remove those of the first `count` inputs that nothing reads; returns which remain."""
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"][:count]
    used = [i for i, node in enumerate(inputs) if node.users]
    for node in inputs:
        if not node.users:
            graph.graph.erase_node(node)
    graph.recompile()
    return used
