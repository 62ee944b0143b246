"""Replicas of screening against the package: the same data, targets, networks and losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from cmpolicy.agents import ConsistencyAC, Spaces
from cmpolicy.agents.ac import ACConfig
from cmpolicy.agents.agent import differentiate
from cmpolicy.consistency.randomness import Draws, drawing_from
from cmpolicy.datasets.d4rl_hdf5 import load_hdf5
from cmpolicy.datasets.transitions import TransitionBatch

SIZES = {"hopper": (11, 3), "walker": (17, 6)}
RADIUS = 0.1


@pytest.fixture
def files(write_hopper: Any, tmp_path: Path) -> dict[str, Path]:
    """Two robots' files of different lengths, with terminals, timeouts and a cut end."""
    paths = {name: tmp_path / f"{name}.hdf5" for name in SIZES}
    write_hopper(paths["hopper"], steps=120)
    write_hopper(paths["walker"], seed=1, steps=90, env_id="Walker2d-v5")
    rng = np.random.default_rng(2)
    with h5py.File(paths["walker"], "a") as file:
        for key, size in zip(("observations", "actions"), SIZES["walker"], strict=True):
            del file[key]
            file[key] = rng.uniform(-1, 1, size=(90, size)).astype(np.float32)
    return paths


@pytest.fixture
def replicas(load: Any, files: dict[str, Path]) -> Any:
    """Four at their full strength, of λ 0, 0.7 and 1, whose actors are not their clones."""
    variants = load("screening/variants")
    torch.manual_seed(0)
    own = {"advantage_weight": 1.0, "discount": 0.9}
    chosen = [("hopper", 0.0), ("walker", 1.0), ("hopper", 0.7), ("walker", 0.7)]
    data = variants.PaddedSets(files, "cpu")
    found = variants.Replicas(
        [variants.Variant(name, trace=trace, **own) for name, trace in chosen],
        data, total=10, shape=variants.Shape(),
    )  # fmt: skip
    found.at.fill_(10)
    for weight in (*found.actor, *found.average_actor, *found.average_clone, *found.target):
        weight.add_(torch.randn_like(weight), alpha=0.03)
    return found


@pytest.fixture(params=range(2), ids=SIZES)
def pair(
    request: Any, replicas: Any, files: dict[str, Path]
) -> tuple[Any, int, ConsistencyAC, Any]:
    """Replicas, the number of one, and the package's agent of its weights, with its data."""
    r, name = request.param, replicas.variants[request.param].set
    (o, a), shape = SIZES[name], {"discount": 0.9, "radius": RADIUS, "return_temperature": 0.0}
    agent = ConsistencyAC(Spaces(o, [-1.0] * a, [1.0] * a), ACConfig(**shape), 10)
    dataset = load_hdf5(files[name])
    agent.prepare(dataset)
    agent.step.fill_(10)
    inputs = [*range(a), *range(6, 23), *range(23, 23 + o)]
    for policy, weights in ((agent.policy, replicas.actor), (agent.clone, replicas.clone),
                            (agent.average_clone, replicas.average_clone)):  # fmt: skip
        own = [weight[r] for weight in weights]
        own[0], own[-2], own[-1] = own[0][inputs], own[-2][:, :a], own[-1][:, :a]
        fill(policy.network, [w.T if i % 2 == 0 else w[0] for i, w in enumerate(own)])
    own = [weight.unflatten(0, (4, 2))[r] for weight in replicas.critic]
    own[0] = own[0][:, [*range(o), *range(17, 17 + a)]]
    fill(agent.critic, own)
    agent.critic.value_mean.zero_()
    return replicas, r, agent, dataset


def fill(module: torch.nn.Module, weights: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, weight in zip(module.parameters(), weights, strict=True):
            parameter.copy_(weight)


def padded(rows: Tensor, size: int, replicas: Any) -> Tensor:
    """(B, n) → (R, B, size)"""
    filled = torch.nn.functional.pad(rows, (0, size - rows.shape[1]))
    return filled.expand(replicas.count, -1, -1)


def test_padded_sets_are_the_transitions_of_the_package(
    replicas: Any, files: dict[str, Path]
) -> None:
    data = replicas.data
    for i, (name, (o, a)) in enumerate(SIZES.items()):
        dataset = load_hdf5(files[name])
        n = len(dataset)
        assert 0 < dataset.terminals.sum() < dataset.episode_ends.sum() < int(data.rows[i]) == n
        for column, size in (("observations", o), ("next_observations", o), ("actions", a)):
            ours = getattr(data, column)[i, :n]
            if column != "actions":
                ours = ours * data.std[i] + data.mean[i]
            torch.testing.assert_close(ours[:, :size], getattr(dataset, column))
            assert not getattr(data, column)[i, :, size:].any()
        for column in ("rewards", "terminals"):
            assert torch.equal(getattr(data, column)[i, :n], getattr(dataset, column))
        assert np.array_equal(data.recorded[name].ends, dataset.episode_ends.numpy())


@pytest.mark.parametrize("warm", [False, True])
def test_targets_are_what_a_walk_along_the_episode_gives(replicas: Any, warm: bool) -> None:
    index = torch.arange(80).expand(4, -1)
    replicas.warm_trace.copy_(replicas.trace)
    torch.manual_seed(3)
    y = replicas.target_of(index, warm) * replicas.unit[:, None]
    torch.manual_seed(3)
    uniform, noise = torch.rand(4, 80), torch.randn(4, 80, 6)
    last, total, factor = torch.zeros(3, 4, 80)
    for r, variant in enumerate(replicas.variants):
        recorded = replicas.data.recorded[variant.set]
        for t in range(80):
            steps, at = 1, t
            total[r, t] = float(recorded.rewards[t])
            while not recorded.ends[at] and float(uniform[r, t]) < variant.trace**steps:
                at += 1
                total[r, t] += 0.9**steps * float(recorded.rewards[at])
                steps += 1
            last[r, t], factor[r, t] = at, 0.9**steps * (1 - float(recorded.terminals[at]))
    following = replicas.data.next_observations[replicas.row[:, None], last.long()]
    weights = replicas.average_clone if warm else replicas.average_actor
    actions = replicas.one_call(weights, noise, following)
    value = replicas.q(replicas.target, following, actions).amin(1) * replicas.unit[:, None]
    torch.testing.assert_close(y, total + factor * value, rtol=1e-4, atol=1e-4)
    lengths = last - torch.arange(80)
    assert not lengths[0].any()  # λ = 0: one step
    assert torch.equal(lengths[1].long() + 1, replicas.data.to_end[1, :80])  # λ = 1: to the end
    assert 1.0 < lengths[2].mean() < 0.7 / 0.3


def test_policies_are_the_packages(pair: Any) -> None:
    replicas, r, agent, dataset = pair
    observations, actions = dataset.observations[:50], dataset.actions[:50]
    a, clone = actions.shape[1], agent.clone
    obs = padded(clone.normalize(observations), 17, replicas)
    torch.testing.assert_close(obs[r], replicas.data.observations[replicas.row[r], :50])
    latent = replicas.encode(padded(actions, 6, replicas))
    torch.testing.assert_close(latent[r, :, :a], clone.encode(actions), rtol=1e-4, atol=1e-5)
    sigma, noise = torch.rand(50).add(0.002).expand(4, -1), torch.randn(50, a)
    found = replicas.consistency(replicas.clone, latent, sigma, obs)[r]
    expected = clone.f(latent[r, :, :a], sigma[r], obs[r, :, : agent.policy.obs_dim])
    torch.testing.assert_close(found[:, :a], expected, rtol=1e-4, atol=1e-5)
    found = replicas.one_call(replicas.actor, padded(noise, 6, replicas), obs)[r]
    expected = agent.policy(observations, noise=noise)
    torch.testing.assert_close(found[:, :a], expected, rtol=1e-4, atol=1e-5)
    assert not found[:, a:].any()


@pytest.mark.parametrize(("rounded", "error"), [(False, 1e-4), (True, 0.05)])
def test_losses_are_the_packages(
    pair: Any, rounded: bool, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas, r, agent, dataset = pair
    if not rounded:  # the critics' products in float32, as the package's
        monkeypatch.setattr(Tensor, "bfloat16", lambda x: x)
    rows = torch.arange(64)
    batch = TransitionBatch.of(column[rows] for column in dataset.transitions.recorded)
    a = batch.actions.shape[1]
    obs = padded(agent.policy.normalize(batch.observations), 17, replicas)
    actions, noise = padded(batch.actions, 6, replicas), torch.randn(2, 64, a)

    def near(found: Tensor, expected: Tensor) -> bool:
        return bool((found - expected).norm() <= error * expected.norm())

    assert near(replicas.q(replicas.critic, obs, actions)[r], agent.critic(*batch[:2]))
    own = [replicas.one_call(replicas.average_clone, padded(z, 6, replicas), obs) for z in noise]
    weights = replicas.advantage_weights(obs, actions, own)[r]
    source = iter(noise)
    with drawing_from(lambda _: next(source)):
        assert near(weights, agent.advantage_weights(batch))
    assert weights.std() > 0.2
    for weight in (*replicas.actor, *replicas.clone):
        weight.requires_grad_()
    loss = replicas.actor_loss(obs, padded(noise[0], 6, replicas), own[0])
    found = torch.autograd.grad(loss * RADIUS, replicas.actor)
    with drawing_from(lambda _: noise[0]):
        expected, _ = differentiate(agent.actor_loss, list(agent.policy.parameters()), batch)
    for ours, theirs in zip(found[2:4], expected[2:4], strict=True):  # of the second layer
        assert near(ours[r].T.reshape(theirs.shape), theirs)
    torch.manual_seed(5)
    loss = replicas.clone_loss(obs, actions, torch.ones(4, 64))
    found = torch.autograd.grad(loss, replicas.clone)
    torch.manual_seed(5)
    uniform, drawn = torch.rand(4, 64)[r], torch.randn(4, 64, 6)[r, :, :a]
    loss = agent.clone.loss(*batch[:2], agent.progress, generator=Draws(drawn, uniform))
    expected = torch.autograd.grad(loss, list(agent.clone.parameters()))
    assert near(found[2][r].T, expected[2])
