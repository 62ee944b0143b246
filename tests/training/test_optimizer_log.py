"""Norms of gradients from the states of Adam, and learning rates, for every kind of learner."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cmpolicy.acceleration.compiled_update import CompiledUpdate
from cmpolicy.acceleration.stacked_agents import StackedAgents
from cmpolicy.agents import Spaces
from cmpolicy.agents.agent import Agent
from cmpolicy.agents.bc import BCConfig, ConsistencyBC
from cmpolicy.datasets.transitions import TransitionBatch
from cmpolicy.policy.config import PolicyConfig
from cmpolicy.training.optimizer_log import OptimizerLog


def agent_of(seed: int, **keys: Any) -> ConsistencyBC:
    torch.manual_seed(seed)
    config = BCConfig(policy=PolicyConfig(hidden=[8]), **keys)
    return ConsistencyBC(Spaces(3, [-1.0] * 2, [1.0] * 2), config, total_steps=10)


def batch_of(seed: int, *shape: int) -> TransitionBatch:
    g = torch.Generator().manual_seed(seed)
    columns = {"observations": 3, "actions": 2, "next_observations": 3}
    columns |= {"imitated_observations": 3, "imitated_actions": 2}

    def column(name: str) -> Tensor:
        size = (*shape, columns[name]) if name in columns else shape
        return torch.rand(*size, generator=g)

    return TransitionBatch(*map(column, TransitionBatch._fields))


def norm_of_gradients(agent: Agent) -> float:
    """What an eager update left at the parameters."""
    gradients = [p.grad for p in agent.policy.parameters() if p.grad is not None]
    return float(nn.utils.get_total_norm(gradients))


def test_the_norm_is_that_of_the_gradient() -> None:
    agent = agent_of(0)
    log = OptimizerLog(agent)
    for step in range(3):  # at the first update Adam has no state yet
        log.begin()
        agent.update(batch_of(step, 6))
        measured = log.end()
        assert float(measured["gradient_norm/policy"]) == pytest.approx(
            norm_of_gradients(agent), rel=1e-4
        )
        assert float(measured["learning_rate/policy"]) == pytest.approx(
            float(agent.scheduled(1e-3))
        )
    assert float(measured["learning_rate/policy"]) < 1e-3
    assert measured.keys() == {"gradient_norm/policy", "learning_rate/policy"}


def test_it_is_the_gradient_that_the_optimiser_took() -> None:
    agent = agent_of(0, max_grad_norm=0.01)
    log = OptimizerLog(agent)
    log.begin()
    agent.update(batch_of(0, 6))
    assert float(log.end()["gradient_norm/policy"]) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.slow
def test_a_compiled_update_has_the_norms_of_an_eager_one() -> None:
    eager = agent_of(0)
    compiled = copy.deepcopy(eager)
    compiled.update = CompiledUpdate(compiled)  # type: ignore[method-assign]
    norms = []
    for agent in (eager, compiled):
        torch.manual_seed(1)
        log = OptimizerLog(agent)
        for step in range(3):
            log.begin()
            agent.update(batch_of(step, 6))
            measured = log.end()
        norms.append(measured)
    for name, value in norms[0].items():
        torch.testing.assert_close(norms[1][name], value, rtol=1e-3, atol=1e-6, msg=name)


def test_seeds_that_are_stacked_have_norms_of_their_own() -> None:
    alone, generators = [agent_of(seed) for seed in (0, 1)], []
    for seed in (0, 1):
        generators.append(torch.Generator().manual_seed(seed))
    stacked = StackedAgents([copy.deepcopy(agent) for agent in alone], generators)
    log, batch = OptimizerLog(stacked, stacked=True), batch_of(0, 2, 6)
    log.begin()
    stacked.update(batch)
    measured = log.end()
    assert measured["learning_rate/policy"].shape == (2,)
    for i, agent in enumerate(alone):
        torch.manual_seed(i)
        agent.update(TransitionBatch(*(column[i] for column in batch)))
        norm = float(measured["gradient_norm/policy"][i])
        assert norm == pytest.approx(norm_of_gradients(agent), rel=1e-3)


def test_a_learner_without_optimisers_is_not_measured() -> None:
    log = OptimizerLog(object())
    log.begin()
    assert not log.measures
    assert log.end() == {}


def test_other_optimisers_are_left_out() -> None:
    class Learner:
        optimizers = {"sgd": torch.optim.SGD([torch.zeros(2, requires_grad=True)], 0.1)}

    log = OptimizerLog(Learner())
    log.begin()
    assert log.measures
    assert log.end() == {}
