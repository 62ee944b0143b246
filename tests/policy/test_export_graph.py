"""A policy as one graph, run by onnxruntime and by torch.export, against the policy itself."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

import cmpolicy
from cmpolicy.consistency.randomness import sobol_normal
from cmpolicy.errors import InputError
from cmpolicy.policy import export_graph as policy_graph
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.policy.export_graph import (
    PolicyGraph,
    largest_difference,
    run_onnx,
    run_torch,
    to_onnx,
    to_torch,
)

LOW, HIGH = [-2.0, 0.0], [1.0, 5.0]
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {
        "bound": "clamp",
        "parameterization": "ding_jin",
        "embedding": "sinusoidal",
        "activation": "mish",
        "loss": "ct",
        "levels": [80.0, 2.0],
    },
    "squash": {"bound": "squash", "parameterization": "trigflow", "activation": "relu", "steps": 3},
}


def policy(kind: str = "default", **overrides: Any) -> ConsistencyPolicy:
    torch.manual_seed(0)
    made = ConsistencyPolicy(3, 2, LOW, HIGH, **{"hidden": [16, 16], **KINDS[kind], **overrides})
    generator = torch.Generator().manual_seed(1)
    observations = 5 + 3 * torch.randn(200, 3, generator=generator)
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    made.fit_normalizers(observations, low + (high - low) * torch.rand(200, 2, generator=generator))
    with torch.no_grad():
        for p in made.network.parameters():
            p.mul_(3)  # actions that differ much from one observation to the next
    return made


def inputs(batch: int, steps: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    observations = 5 + 3 * torch.randn(batch, 3, generator=generator)
    return observations, torch.randn(batch, steps, 2, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_acts_as_the_policy(kind: str) -> None:
    original = policy(kind)
    steps = len(original.levels)
    session = onnxruntime.InferenceSession(to_onnx(PolicyGraph(original), {}))
    assert [x.name for x in session.get_inputs()] == ["observations", "noise"]
    assert [x.shape for x in session.get_inputs()] == [["batch", 3], ["batch", steps, 2]]
    assert [(x.name, x.shape) for x in session.get_outputs()] == [("actions", ["batch", 2])]
    for batch in (1, 2, 7, 64):
        observations, noise = inputs(batch, steps)
        feed = {"observations": observations.numpy(), "noise": noise.numpy()}
        [actions] = session.run(None, feed)
        expected = original(observations, noise=noise).detach().numpy()
        np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-5)
        assert batch < 64 or expected.std(0).min() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [None, 2])
def test_torch_export_acts_as_the_policy(kind: str, steps: int | None) -> None:
    original = policy(kind)
    graph = PolicyGraph(original, steps)
    module = torch.export.load(io.BytesIO(to_torch(graph, {}))).module()
    for batch in (1, 2, 7):
        observations, noise = inputs(batch, graph.steps)
        expected = graph(observations, noise)
        torch.testing.assert_close(module(observations, noise), expected, rtol=0, atol=1e-5)
        if steps is None:
            same = original(observations, noise=noise)
            torch.testing.assert_close(expected, same, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("make", "run"), [(to_onnx, run_onnx), (to_torch, run_torch)])
def test_a_mode_takes_observations_alone(kind: str, make: Any, run: Any) -> None:
    original = policy(kind)
    graph = PolicyGraph(original, mode_of=8)
    assert list(graph.inputs) == ["observations"]
    sobol_normal.cache_clear()  # as in a fresh process
    form = run(make(graph, {}), graph)
    for batch in (1, 2, 7, 64):
        observations, _ = inputs(batch, 1)
        expected = torch.from_numpy(original.act(observations.numpy(), mode_of=8))
        torch.testing.assert_close(form(observations)[0], expected, rtol=0, atol=1e-4)
    assert expected.std(0).min() > 0.05
    assert largest_difference(form, graph) < 1e-5
    graph.policy.network.layers[0].bias.mul_(1.01)
    assert largest_difference(form, graph) > 1e-4


def test_steps_are_those_asked_for() -> None:
    original, two = policy(), policy(steps=2)
    observations, noise = inputs(5, 2)
    session = onnxruntime.InferenceSession(to_onnx(PolicyGraph(original, 2), {}))
    feed = {"observations": observations.numpy(), "noise": noise.numpy()}
    expected = two(observations, noise=noise).detach().numpy()
    np.testing.assert_allclose(session.run(None, feed)[0], expected, rtol=0, atol=1e-5)
    assert len(original.levels) == original.sampler.steps == 1


def test_onnxruntime_draws_noise_inside() -> None:
    original = policy()
    session = onnxruntime.InferenceSession(to_onnx(PolicyGraph(original, None, True), {}))
    assert [x.name for x in session.get_inputs()] == ["observations"]
    observations = np.full((4000, 3), 5, np.float32)
    first, second = (session.run(None, {"observations": observations})[0] for _ in range(2))
    assert not np.array_equal(first, second)
    with torch.no_grad():
        expected = original(torch.from_numpy(observations)).numpy()
    for measure in (np.mean, np.std):
        scale = np.std(expected, axis=0)
        np.testing.assert_array_less(abs(measure(first, 0) - measure(expected, 0)), 0.15 * scale)


def test_torch_draws_noise_inside_as_the_policy_does() -> None:
    original = policy(steps=2)
    graph = PolicyGraph(original, None, True)
    module = torch.export.load(io.BytesIO(to_torch(graph, {}))).module()
    observations = inputs(9, 2)[0]
    torch.manual_seed(3)
    actions = module(observations)
    torch.manual_seed(3)
    torch.testing.assert_close(actions, original(observations), rtol=0, atol=1e-6)


@pytest.mark.parametrize("noise_inside", [False, True])
@pytest.mark.parametrize(("make", "run"), [(to_onnx, run_onnx), (to_torch, run_torch)])
def test_a_form_that_differs_is_seen(make: Any, run: Any, noise_inside: bool) -> None:
    graph = PolicyGraph(policy(), 2, noise_inside)
    form = run(make(graph, {}), graph)
    state = torch.get_rng_state()
    assert largest_difference(form, graph) < 1e-5
    assert torch.equal(torch.get_rng_state(), state)
    graph.policy.network.layers[0].bias.mul_(1.01)
    assert largest_difference(form, graph) > 1e-4


def test_actions_are_inside_the_bounds_whatever_the_weights() -> None:
    original = policy()
    with torch.no_grad():
        for p in original.network.parameters():
            p.mul_(1e12)
    session = onnxruntime.InferenceSession(to_onnx(PolicyGraph(original), {}))
    observations, noise = inputs(200, 1)
    [actions] = session.run(None, {"observations": observations.numpy(), "noise": noise.numpy()})
    assert ((np.float32(LOW) <= actions) & (actions <= np.float32(HIGH))).all()


def test_the_policy_is_left_as_it_is() -> None:
    original = policy("published")
    before = {name: t.clone() for name, t in original.state_dict().items()}
    graph = PolicyGraph(original, 3)
    graph.policy.network.layers[0].weight.zero_()
    assert all(torch.equal(t, before[name]) for name, t in original.state_dict().items())
    assert original.target_network is not None
    assert all(p.requires_grad for p in original.network.parameters())
    assert not any("target" in name for name in graph.state_dict())


def test_files_say_what_they_are_and_nothing_of_this_machine() -> None:
    graph = PolicyGraph(policy())
    about = {"steps": 1, "action_low": LOW}
    onnx, torch_ = to_onnx(graph, about), to_torch(graph, about)
    metadata = onnxruntime.InferenceSession(onnx).get_modelmeta().custom_metadata_map
    assert {key: json.loads(value) for key, value in metadata.items()} == about
    extra = {"about.json": ""}
    torch.export.load(io.BytesIO(torch_), extra_files=extra)
    assert json.loads(extra["about.json"]) == about
    place = str(Path(cmpolicy.__file__).parent).encode()
    assert place not in onnx
    assert place not in torch_


def test_missing_packages_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_graph, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(InputError, match=r"ONNX needs no_such_package: pip install -e '.\[ex"):
        to_onnx(PolicyGraph(policy()), {})
