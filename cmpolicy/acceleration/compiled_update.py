"""An agent's whole update as one compiled graph: losses, gradients, optimisers, averages."""

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

log = logging.getLogger("cmpolicy")
ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps for a parameter

UpdateMetrics = Mapping[str, Tensor]


class UpdatedModules(Protocol):
    """An agent, or several stacked ones."""

    optimizers: dict[str, torch.optim.Optimizer]
    update: Callable[[Any], UpdateMetrics]


@runtime_checkable
class Compilable(Protocol):
    """A learner, an nn.Module, the `update` of whose core performs the same operations each time.

    Its optimisers are AdamW. It draws from `generators`, or from torch's global generator.
    """

    @property
    def core(self) -> UpdatedModules: ...

    @property
    def generators(self) -> Sequence[torch.Generator]: ...


class FunctionalModule(nn.Module):
    """A module whose `forward` calls any function of it, for `functional_call`.

    The names of its parameters and buffers begin with ``module.``.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Call `function`."""
        return function(*inputs)


class CompiledUpdate:
    """The update of a learner's core, traced by make_fx and compiled for each batch shape.

    One graph saves the start of each operation and fuses what the optimisers and the averages do
    to a parameter. torch.compile around the update is slower, see benchmarks/results/compile.md.

    Random numbers are those of the eager update. The first update is eager, because AdamW creates
    its state there. If the compiler fails, for example without a C++ compiler, all updates are
    eager.
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
                with warnings.catch_warnings():  # about deprecations inside the compiler
                    warnings.simplefilter("ignore")
                    self.compiled[key] = self.compile(states, inputs, structure)
            except Exception as error:  # compilers raise anything
                reason = " ".join(str(error).split())[:200]
                log.warning("compiling failed, updates are eager: %s", reason)
                self.core.update = self.eager
                return self.eager(batch)
        return self.compiled[key](states, inputs)

    def states(self) -> list[Tensor]:
        """ADAM_STATE of each parameter of each optimiser; KeyError before the first update."""
        return [
            optimizer.state[parameter][name]
            for optimizer in self.core.optimizers.values()
            for parameter in parameters_of(optimizer)
            for name in ADAM_STATE
        ]

    def compile(
        self, states: list[Tensor], inputs: list[Tensor], structure: pytree.TreeSpec
    ) -> Callable[[list[Tensor], list[Tensor]], UpdateMetrics]:
        """Compile `update(batch)` as a function of the optimisers' states and a flat batch."""
        from torch._inductor import compile as compile_graph  # slow to import

        named = dict([*self.caller.named_parameters(), *self.caller.named_buffers()])
        modules = [tensor.detach() for tensor in named.values()]
        index = {id(tensor): i for i, tensor in enumerate(named.values())}
        optimizers, names = self.core.optimizers, list[str]()

        def traced(*tensors: Tensor) -> list[Tensor]:
            unread = iter(tensors)
            own = [next(unread).detach().requires_grad_(t.requires_grad) for t in named.values()]
            self.core.optimizers = {
                name: TracedAdamW(  # type: ignore[misc]
                    optimizer.param_groups[0],
                    [own[index[id(p)]] for p in parameters_of(optimizer)],
                    unread,
                )
                for name, optimizer in optimizers.items()
            }
            batch = pytree.tree_unflatten(list(unread), structure)
            metrics = functional_call(
                self.caller, dict(zip(named, own, strict=True)), (self.eager, batch)
            )
            names[:] = metrics
            return list(metrics.values())

        copies = [tensor.clone() for tensor in (*modules, *states)]
        gpus = [t.device for t in modules[:1] if t.is_cuda]
        try:
            with torch.random.fork_rng(gpus):  # tracing performs the update once, on the copies
                graph = make_fx(traced, SEPARATE_BIASES)(*copies, *inputs)
        finally:
            self.core.optimizers = optimizers
        used = drop_unused_inputs(graph, len(copies))
        kept = [modules[i] for i in used if i < len(modules)]
        rest = [i - len(modules) for i in used if i >= len(modules)]
        function = compile_graph(
            graph,
            [*kept, *(states[i] for i in rest), *inputs],
            # The pattern matcher would merge the biases into the products again.
            {"fallback_random": True, "pattern_matcher": False},
        )

        def compiled(states: list[Tensor], inputs: list[Tensor]) -> UpdateMetrics:
            values = function(*kept, *(states[i] for i in rest), *inputs)
            return dict(zip(names, values, strict=True))

        return compiled


class TracedAdamW:
    """AdamW (Loshchilov & Hutter 2017, Algorithm 2) in traceable operations.

    Args:
        group: settings of the optimiser that it replaces.
        parameters: which it moves.
        states: gives ADAM_STATE of each parameter, which it updates too.
    """

    def __init__(
        self, group: Mapping[str, Any], parameters: Sequence[Tensor], states: Iterator[Tensor]
    ) -> None:
        self.param_groups = [{**group, "params": list(parameters)}]
        self.states = [[next(states) for _ in ADAM_STATE] for _ in parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Move each parameter by its gradient."""
        (group,) = self.param_groups
        beta1, beta2 = group["betas"]
        step = self.states[0][0] + 1
        # βᵏ as exp(k ln β): the compiler computes a term with exp once, not for each element.
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
    """All parameters of an optimiser."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


# A product with a bias first copies the bias to its output. Apart, the bias is fused with the
# activation.
SEPARATE_BIASES = {
    torch.ops.aten.addmm.default: lambda bias, a, b: torch.mm(a, b) + bias,
    torch.ops.aten.baddbmm.default: lambda bias, a, b: torch.bmm(a, b) + bias,
}


def drop_unused_inputs(graph: torch.fx.GraphModule, count: int) -> list[int]:
    """Remove the unused ones of the first `count` inputs; return the indices of the others."""
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"][:count]
    used = [i for i, node in enumerate(inputs) if node.users]
    for node in inputs:
        if not node.users:
            graph.graph.erase_node(node)
    graph.recompile()
    return used
