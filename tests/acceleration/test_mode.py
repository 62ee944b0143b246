"""Compiled updates against eager ones, what `auto` picks, CUDA graphs where there is a GPU."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import pytest
import torch

from cmpolicy.acceleration.compiled_update import CompiledUpdate
from cmpolicy.acceleration.cuda_graphs import UPDATES_A_REPLAY, WARM_UPS
from cmpolicy.acceleration.mode import (
    WORTH_COMPILING,
    accelerated,
    check_acceleration,
    resolve_acceleration,
)
from cmpolicy.acceleration.stacked_agents import StackedAgents
from cmpolicy.agents import AGENTS, Agent, Spaces
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.rl.seeds import StackedBatches

CPU = torch.device("cpu")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make(name: str, device: str = "cpu", **options: Any) -> tuple[Agent, TransitionDataset]:
    """A small agent and its data."""
    rng = np.random.default_rng(1)
    dataset = TransitionDataset.from_arrays(
        rng.normal(size=(300, 5)),
        rng.uniform(-1, 1, size=(300, 2)),
        rng.normal(size=300),
        np.arange(300) % 10 == 9,
    )
    if hasattr(AGENTS[name].Config, "critic_ensemble"):
        options["critic_hidden"] = [8]
    policy = type(AGENTS[name].Config().policy)(hidden=[8])
    config = AGENTS[name].Config(policy=policy, **options)
    torch.manual_seed(0)
    agent = AGENTS[name](Spaces(5, [-1.0] * 2, [1.0] * 2), config, 100).to(device)
    return agent, agent.prepare(dataset.to(device))


def train(agent: Agent, dataset: TransitionDataset, updates: int, mode: str) -> list[int]:
    """Carry out so many updates; returns how many at a time."""
    advance = accelerated(agent, dataset, 16, mode, "fp32")
    sizes: list[int] = []
    while sum(sizes) < updates:
        done, metrics = advance(updates - sum(sizes))
        assert all(m.isfinite() for m in metrics.values())
        sizes.append(done)
    return sizes


def graphs(learner: Agent | StackedAgents) -> int:
    """How many compiled forms of its update it has; it has not fallen back."""
    update = learner.core.update
    assert isinstance(update, CompiledUpdate)
    return len(update.compiled)


def assert_close(ours: Agent, theirs: Agent, tolerance: float = 1e-4) -> None:
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# Compiled -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_an_update_is_traced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled, as an interpreter runs it: the same update, the same random numbers."""
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: graph)
    agents = {mode: make(name) for mode in ("off", "compile")}
    draws = []
    for mode, (agent, dataset) in agents.items():
        torch.manual_seed(5)
        train(agent, dataset, 4, mode)
        draws.append(torch.randn(()))
    assert torch.equal(*draws)
    eager, traced = (agent for agent, _ in agents.values())
    assert graphs(traced) == 1
    assert_close(traced, eager, 1e-5)
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(traced.state_dict()[name], tensor, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(traced.optimizers.values(), eager.optimizers.values(), strict=True):
        states = ours.state_dict()["state"], theirs.state_dict()["state"]
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)


def test_clipping_decay_and_a_falling_rate_are_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: graph)
    settings = {"max_grad_norm": 0.01, "weight_decay": 0.5, "cosine_decay": True}
    agents = {}
    for mode in ("off", "compile"):
        agent, dataset = make("ac", **settings)
        torch.manual_seed(5)
        train(agent, dataset, 20, mode)
        agents[mode] = agent
    assert graphs(agents["compile"]) == 1
    assert_close(agents["compile"], agents["off"], 1e-5)


def check_compiled(name: str) -> None:
    runs: dict[str, Agent] = {}
    for mode in ("off", "compile"):
        agent, dataset = make(name)
        torch.manual_seed(5)
        train(agent, dataset, 3, mode)
        state, random = copy.deepcopy(agent.training_state()), torch.get_rng_state()
        resumed, _ = make(name)
        resumed.load_training_state(state)
        for learner in (agent, resumed):
            torch.set_rng_state(random)
            train(learner, dataset, 3, mode)
        for a, b in zip(agent.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(a, b)
        assert mode == "off" or graphs(agent) == graphs(resumed) == 1
        runs[mode] = agent
    assert_close(runs["compile"], runs["off"])


def test_a_compiled_run_is_the_eager_one_and_resumes_bit_for_bit() -> None:
    check_compiled("bc")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(AGENTS.keys() - {"bc"}))
def test_every_agent_compiles(name: str) -> None:
    check_compiled(name)


# Several seeds ---------------------------------------------------------------------------------


def make_stack(name: str, device: str = "cpu") -> tuple[StackedAgents, StackedBatches]:
    """Three seeds of a small agent, and their batches."""
    made = [make(name, device) for _ in range(3)]
    for i, (agent, _) in enumerate(made):
        with torch.no_grad():
            for parameter in agent.parameters():
                parameter.add_(0.01 * i)
    generators = [torch.Generator(device).manual_seed(s) for s in (4, 0, 9)]
    dataset = made[0][1]
    return StackedAgents([agent for agent, _ in made], generators), StackedBatches(
        dataset, generators
    )


def train_stack(stack: StackedAgents, batches: StackedBatches, updates: int, mode: str) -> None:
    advance = accelerated(stack, batches, 16, mode, "fp32")
    for _ in range(updates):
        _, metrics = advance(1)
        assert all(m.shape == (3,) and bool(m.isfinite().all()) for m in metrics.values())


def check_compiled_stack(name: str, tolerance: float = 1e-4) -> None:
    stacks = {mode: make_stack(name) for mode in ("off", "compile")}
    for mode, (stack, batches) in stacks.items():
        train_stack(stack, batches, 4, mode)
        state = copy.deepcopy(stack.training_state())
        resumed, others = make_stack(name)
        for mine, theirs in zip(resumed.generators, stack.generators, strict=True):
            mine.set_state(theirs.get_state())
        for learner, its_batches in ((stack, batches), (resumed, others)):
            learner.load_training_state(state)
            train_stack(learner, its_batches, 2, mode)
        for mine, theirs in zip(
            resumed.stacked.parameters(), stack.stacked.parameters(), strict=True
        ):
            assert torch.equal(mine, theirs)
    (eager, _), (compiled, _) = stacks.values()
    assert graphs(compiled) == 1
    for ours, theirs in zip(compiled.agents, eager.agents, strict=True):
        assert_close(ours, theirs, tolerance)
    for ours, theirs in zip(compiled.generators, eager.generators, strict=True):
        assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("name", AGENTS)
def test_an_update_of_seeds_is_traced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: graph)
    check_compiled_stack(name, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_seeds_compile(name: str) -> None:
    check_compiled_stack(name)


def test_seeds_that_do_not_compile_go_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws go on where they were before tracing read them."""

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("torch._inductor.compile", fail)
    (stack, batches), (eager, others) = make_stack("ac"), make_stack("ac")
    train_stack(stack, batches, 3, "compile")
    train_stack(eager, others, 3, "off")
    assert not isinstance(stack.core.update, CompiledUpdate)
    for ours, theirs in zip(stack.agents, eager.agents, strict=True):
        assert_close(ours, theirs, 0.0)


def test_what_does_not_compile_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no C++ compiler\nfound")

    monkeypatch.setattr("torch._inductor.compile", fail)
    (agent, dataset), (eager, _) = make("bc"), make("bc")
    with caplog.at_level(logging.WARNING):
        for learner, mode in ((agent, "compile"), (eager, "off")):
            torch.manual_seed(5)
            train(learner, dataset, 2, mode)
    assert [r.message for r in caplog.records] == [
        "compiling failed, going on without: no C++ compiler found"
    ]
    for a, b in zip(agent.parameters(), eager.parameters(), strict=True):
        assert torch.equal(a, b)


# What is picked -------------------------------------------------------------------------------


def test_auto() -> None:
    agent, _ = make("bc")
    gpu = torch.device("cuda")
    other: Any = object()
    assert resolve_acceleration("auto", agent, CPU, WORTH_COMPILING) == "compile"
    assert resolve_acceleration("auto", agent, CPU, WORTH_COMPILING - 1) == "off"
    assert resolve_acceleration("auto", agent, gpu, WORTH_COMPILING - 1) == "graph"
    assert resolve_acceleration("auto", agent, gpu, WORTH_COMPILING) == "compiled_graph"
    assert resolve_acceleration("auto", agent, gpu, 1, growing=True) == "off"
    assert resolve_acceleration("auto", agent, gpu, WORTH_COMPILING, growing=True) == "compile"
    assert resolve_acceleration("auto", other, gpu, WORTH_COMPILING) == "off"
    assert resolve_acceleration("off", other, gpu, 1) == "off"
    assert resolve_acceleration("compile", agent, CPU, 1) == "compile"
    stack, _ = make_stack("bc")
    assert resolve_acceleration("auto", stack, CPU, WORTH_COMPILING) == "compile"
    assert resolve_acceleration("auto", stack, gpu, WORTH_COMPILING) == "compiled_graph"
    for name in ("graph", "compiled_graph"):
        assert resolve_acceleration(name, stack, gpu, 1) == name


def test_what_cannot_be_is_refused() -> None:
    agent, _ = make("bc")
    other: Any = object()
    gpu = torch.device("cuda")
    for name in ("graph", "compiled_graph"):
        with pytest.raises(InputError, match=f"accelerate={name} is for CUDA, got device cpu"):
            resolve_acceleration(name, agent, CPU, 1)
        with pytest.raises(InputError, match=f"accelerate={name} is for data that does not grow"):
            resolve_acceleration(name, agent, gpu, 1, growing=True)
    for name in ("graph", "compiled_graph", "compile"):
        with pytest.raises(InputError, match=f"accelerate={name} is for agents"):
            resolve_acceleration(name, other, gpu, 1)
    with pytest.raises(ValueError, match="unknown accelerate 'jit', expected one of auto, graph"):
        check_acceleration("jit")


# CUDA graphs ----------------------------------------------------------------------------------


@cuda
@pytest.mark.parametrize("name", AGENTS)
def test_graphs_do_what_eager_updates_do(name: str) -> None:
    updates = WARM_UPS + UPDATES_A_REPLAY + 2
    agents = {mode: make(name, "cuda") for mode in ("off", "graph")}
    for mode, (agent, dataset) in agents.items():
        torch.manual_seed(5)
        sizes = train(agent, dataset, updates, mode)
        assert sizes == ([1] * updates if mode == "off" else [1, 1, 1, UPDATES_A_REPLAY, 1, 1])
        assert int(agent.step) == updates
    (eager, _), (graphed, _) = agents.values()
    assert_close(graphed, eager, 1e-3)


@cuda
@pytest.mark.parametrize("name", AGENTS)
def test_graphs_of_stacked_seeds_do_what_eager_updates_do(name: str) -> None:
    updates = WARM_UPS + UPDATES_A_REPLAY + 2
    stacks = {mode: make_stack(name, "cuda") for mode in ("off", "graph")}
    draws = []
    for mode, (stack, batches) in stacks.items():
        advance = accelerated(stack, batches, 16, mode, "fp32")
        done = 0
        while done < updates:
            done += advance(updates - done)[0]
        draws.append([torch.rand((), generator=g, device="cuda") for g in stack.generators])
    assert torch.equal(*map(torch.stack, draws))  # the generators went on alike
    (eager, _), (graphed, _) = stacks.values()
    for ours, theirs in zip(graphed.agents, eager.agents, strict=True):
        assert_close(ours, theirs, 1e-3)


@cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("name", AGENTS)
def test_no_update_waits_for_the_gpu(name: str) -> None:
    agent, dataset = make(name, "cuda")
    advance = accelerated(agent, dataset, 16, "off", "fp32")
    advance(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        advance(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
