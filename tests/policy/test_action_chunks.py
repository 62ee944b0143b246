"""Chunks of actions and histories of observations: the queue, and the policy that has one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cmpolicy import ConsistencyPolicy
from cmpolicy.array_types import FloatArray
from cmpolicy.policy.action_chunks import ChunkQueue, Window
from cmpolicy.policy.export_graph import PolicyGraph, run_torch, to_torch


class Counting:
    """A plan whose chunk is what it saw last, plus 0.1, 0.2, …; it remembers its inputs."""

    def __init__(self, window: Window) -> None:
        self.window, self.inputs = window, []  # type: ignore[var-annotated]

    def __call__(self, seen: FloatArray) -> FloatArray:
        self.inputs.append(seen.copy())
        newest = seen[..., -1:]
        return newest + 0.1 * np.arange(1, self.window.horizon + 1)  # type: ignore[no-any-return]


def observed(*values: float) -> FloatArray:
    return np.array(values, np.float32)[:, None]


def test_a_chunk_is_executed_before_the_next_is_asked_for() -> None:
    plan = Counting(Window(horizon=3, execute=2))
    queue = ChunkQueue(plan.window)
    acted = [queue.act(plan, observed(t, 10 + t))[:, 0] for t in range(5)]
    expected = [(0.1, 10.1), (0.2, 10.2), (2.1, 12.1), (2.2, 12.2), (4.1, 14.1)]
    np.testing.assert_allclose(acted, expected, rtol=1e-6)
    assert len(plan.inputs) == 3


def test_a_history_is_the_last_observations_and_begins_with_the_first_repeated() -> None:
    plan = Counting(Window(horizon=2, execute=2, history=3))
    queue = ChunkQueue(plan.window)
    for t in range(5):
        queue.act(plan, observed(t))
    assert [seen[0].tolist() for seen in plan.inputs] == [[0, 0, 0], [0, 1, 2], [2, 3, 4]]


def test_an_episode_that_starts_drops_the_old_plan_and_the_old_history_there_alone() -> None:
    plan = Counting(Window(horizon=4, execute=4, history=2))
    queue = ChunkQueue(plan.window)
    queue.act(plan, observed(0, 10))
    acted = queue.act(plan, observed(1, 11), np.array([False, True]))
    np.testing.assert_allclose(acted[:, 0], [0.2, 11.1], rtol=1e-6)
    assert plan.inputs[1].tolist() == [[11, 11]]
    for t in (2, 3, 4):  # the first environment is due at 4, the second at 5
        acted = queue.act(plan, observed(t, 10 + t))
    np.testing.assert_allclose(acted[:, 0], [4.1, 11.4], rtol=1e-6)
    assert plan.inputs[2].tolist() == [[3, 4]]


def test_seeds_and_environments_may_both_lead() -> None:
    plan = Counting(Window(horizon=2, execute=2, history=2))
    queue = ChunkQueue(plan.window)
    assert queue.act(plan, np.zeros((3, 4, 1), np.float32)).shape == (3, 4, 1)
    assert plan.inputs[0].shape == (3, 4, 2)


def test_a_policy_acts_by_chunks_of_its_history(tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = ConsistencyPolicy(3, 2, [-1.0, 0.0], [1.0, 5.0], horizon=4, execute=3, history=2)
    assert (policy.obs_dim, policy.action_dim) == (6, 8)
    assert policy.bound.low.tolist() == [-1.0, 0.0] * 4
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    acted = [policy.act(o, mode_of=4) for o in observations]
    first = torch.tensor(np.concatenate([observations[0]] * 2))[None]
    fourth = torch.tensor(np.concatenate(observations[2:4]))[None]
    chunks = [policy.mode(seen, 4).view(4, 2).detach().numpy() for seen in (first, fourth)]
    np.testing.assert_allclose(acted, [*chunks[0][:3], *chunks[1][:2]], rtol=1e-5, atol=1e-6)

    policy.reset()
    again = [policy.act(o, mode_of=4) for o in observations[:2]]
    np.testing.assert_array_equal(again, acted[:2])
    anew = policy.act(observations[0], mode_of=4, episode_start=True)
    np.testing.assert_array_equal(anew, acted[0])

    policy.save(tmp_path / "policy.safetensors")
    loaded = ConsistencyPolicy.load(tmp_path / "policy.safetensors")
    assert loaded.window == Window(4, 3, 2)
    np.testing.assert_array_equal([loaded.act(o, mode_of=4) for o in observations], acted)


def test_the_exported_graph_takes_a_history_and_gives_a_chunk() -> None:
    policy = ConsistencyPolicy(3, 2, horizon=4, history=2, hidden=[8])
    graph = PolicyGraph(policy)
    assert graph.inputs == {"observations": (6,), "noise": (1, 8)}
    actions, _ = run_torch(to_torch(graph, {}), graph)(torch.zeros(2, 6), torch.zeros(2, 1, 8))
    assert actions.shape == (2, 8)


@pytest.mark.parametrize("wrong", [{"horizon": 0}, {"history": 0}, {"horizon": 2, "execute": 3}])
def test_windows_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be a whole number from 1"):
        ConsistencyPolicy(3, 2, **wrong)
