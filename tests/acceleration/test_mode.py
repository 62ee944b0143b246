"""Compiled updates against eager ones, what `auto` picks, CUDA graphs where there is a GPU."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cmpolicy.acceleration.compiled_update import CompiledUpdate
from cmpolicy.acceleration.cuda_graphs import UPDATES_PER_REPLAY, WARM_UPS
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

CPU, GPU = torch.device("cpu"), torch.device("cuda")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


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
    dataset = agent.prepare(dataset.to(device))
    torch.manual_seed(5)
    return agent, dataset


def make_stack(name: str, device: str = "cpu") -> tuple[StackedAgents, StackedBatches]:
    """Three seeds of a small agent, and their batches."""
    made = [make(name, device) for _ in range(3)]
    for i, (agent, _) in enumerate(made):
        with torch.no_grad():
            for parameter in agent.parameters():
                parameter.add_(0.01 * i)
    generators = [torch.Generator(device).manual_seed(s) for s in (4, 0, 9)]
    stack = StackedAgents([agent for agent, _ in made], generators)
    return stack, StackedBatches(made[0][1], generators)


def train(learner: Any, dataset: Any, updates: int, mode: str) -> list[int]:
    """Perform so many updates; returns how many at a time."""
    advance = accelerated(learner, dataset, 16, mode, "fp32")
    sizes: list[int] = []
    while sum(sizes) < updates:
        done, metrics = advance(updates - sum(sizes))
        assert all(bool(m.isfinite().all()) for m in metrics.values())
        sizes.append(done)
    return sizes


def assert_close(ours: torch.nn.Module, theirs: torch.nn.Module, tolerance: float) -> None:
    """Parameters and buffers of one agent or of stacked ones."""
    mine, others = ours.state_dict(), theirs.state_dict()
    for name, tensor in others.items():
        torch.testing.assert_close(mine[name], tensor, rtol=tolerance, atol=tolerance, msg=name)


def random_states(learner: Agent | StackedAgents) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *(g.get_state() for g in learner.generators)]


def check_compiled(build: Callable[[str], tuple[Any, Any]], name: str, tolerance: float) -> None:
    """Compiled updates are the eager ones, draw what they draw, and resume bit for bit."""
    runs = {}
    for mode in ("off", "compile"):
        learner, dataset = build(name)
        train(learner, dataset, 3, mode)
        state, (own, *others) = copy.deepcopy(learner.training_state()), random_states(learner)
        resumed, its_dataset = build(name)
        for generator, random in zip(resumed.generators, others, strict=True):
            generator.set_state(random)
        for one, its in ((learner, dataset), (resumed, its_dataset)):
            one.load_training_state(copy.deepcopy(state))
            torch.set_rng_state(own)
            train(one, its, 2, mode)
        assert_close(resumed, learner, 0.0)
        runs[mode] = learner, random_states(learner), learner.training_state()
    (eager, draws, state), (compiled, other_draws, other_state) = runs.values()
    update = compiled.core.update
    assert isinstance(update, CompiledUpdate)  # it has not fallen back
    assert len(update.compiled) == 1
    assert_close(compiled, eager, tolerance)
    assert all(map(torch.equal, draws, other_draws))
    optimizers = [
        [agent["optimizers"] for agent in s.get("agents", [s])] for s in (state, other_state)
    ]
    torch.testing.assert_close(*optimizers, rtol=10 * tolerance, atol=tolerance)


# Compiled -------------------------------------------------------------------------------------


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The traced graph as it is, in place of the compiler's."""
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: graph)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("build", [make, make_stack])
def test_an_update_is_traced(build: Any, name: str) -> None:
    check_compiled(build, name, 1e-5)


@pytest.mark.usefixtures("interpreted")
def test_clipping_decay_and_a_falling_rate_are_traced() -> None:
    settings = {"max_grad_norm": 0.01, "weight_decay": 0.5, "cosine_decay": True}
    check_compiled(lambda name: make(name, **settings), "ac", 1e-5)


def test_a_compiled_run_is_the_eager_one() -> None:
    check_compiled(make, "bc", 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "name"),
    [(make, n) for n in AGENTS if n != "bc"] + [(make_stack, n) for n in ("ac", "diffusion_ql")],
)
def test_every_agent_compiles(build: Any, name: str) -> None:
    check_compiled(build, name, 1e-4)


@pytest.mark.parametrize("build", [make, make_stack])
def test_what_does_not_compile_goes_on_eagerly(
    build: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And draws go on where they were before tracing read them."""

    def fail(*_: Any) -> None:
        raise RuntimeError("no C++ compiler\nfound")

    monkeypatch.setattr("torch._inductor.compile", fail)
    runs = []
    with caplog.at_level(logging.WARNING):
        for mode in ("compile", "off"):
            learner, dataset = build("ac")
            train(learner, dataset, 3, mode)
            runs.append(learner)
    assert [r.message for r in caplog.records] == [
        "compiling failed, updates are eager: no C++ compiler found"
    ]
    assert_close(*runs, 0.0)
    assert not isinstance(runs[0].core.update, CompiledUpdate)


# What is picked -------------------------------------------------------------------------------


def test_auto() -> None:
    other: Any = object()
    for learner in (make("bc")[0], make_stack("bc")[0]):
        for device, updates, growing, chosen in (
            (CPU, WORTH_COMPILING, False, "compile"),
            (CPU, WORTH_COMPILING - 1, False, "off"),
            (GPU, WORTH_COMPILING - 1, False, "graph"),
            (GPU, WORTH_COMPILING, False, "compiled_graph"),
            (GPU, 1, True, "off"),
            (GPU, WORTH_COMPILING, True, "compile"),
        ):
            found = resolve_acceleration("auto", learner, device, updates, growing=growing)
            assert found == chosen
        for name in ("graph", "compiled_graph"):
            assert resolve_acceleration(name, learner, GPU, 1) == name
        assert resolve_acceleration("compile", learner, CPU, 1) == "compile"
    assert resolve_acceleration("auto", other, GPU, WORTH_COMPILING) == "off"
    assert resolve_acceleration("off", other, GPU, 1) == "off"


def test_what_cannot_be_is_refused() -> None:
    agent, _ = make("bc")
    other: Any = object()
    for name in ("graph", "compiled_graph"):
        with pytest.raises(InputError, match=f"accelerate={name} is for CUDA, got device cpu"):
            resolve_acceleration(name, agent, CPU, 1)
        with pytest.raises(InputError, match=f"accelerate={name} is for data that does not grow"):
            resolve_acceleration(name, agent, GPU, 1, growing=True)
    for name in ("graph", "compiled_graph", "compile"):
        with pytest.raises(InputError, match=f"accelerate={name} is for agents"):
            resolve_acceleration(name, other, GPU, 1)
    with pytest.raises(ValueError, match="unknown accelerate 'jit', expected one of auto, graph"):
        check_acceleration("jit")


# CUDA graphs ----------------------------------------------------------------------------------


@cuda
@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("build", [make, make_stack])
def test_graphs_do_what_eager_updates_do(build: Any, name: str) -> None:
    updates = WARM_UPS + UPDATES_PER_REPLAY + 2
    runs, draws = [], []
    for mode in ("off", "graph"):
        learner, dataset = build(name, "cuda")
        sizes = train(learner, dataset, updates, mode)
        assert sizes == ([1] * updates if mode == "off" else [1, 1, 1, UPDATES_PER_REPLAY, 1, 1])
        runs.append(learner)
        generators = learner.generators or [None]
        draws.append(torch.stack([torch.rand((), generator=g, device="cuda") for g in generators]))
    assert torch.equal(*draws)  # the generators went on alike
    assert_close(*runs, 1e-3)


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
