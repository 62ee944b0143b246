"""ConsistencyPolicy: bounds, boundary condition, sampling, loss, target and files."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cmpolicy.consistency.losses import LOSSES
from cmpolicy.consistency.parameterization import PARAMETERIZATIONS
from cmpolicy.consistency.randomness import sobol_normal
from cmpolicy.consistency.sampling import find_mode
from cmpolicy.policy.action_bounds import BOUNDS
from cmpolicy.policy.config import PolicyConfig
from cmpolicy.policy.consistency_policy import ConsistencyPolicy

LOW, HIGH = [-2.0, 0.0], [1.0, 5.0]


def small(bound: str = "tanh", **overrides: Any) -> ConsistencyPolicy:
    """A policy of 3 observations and 2 actions with unequal bounds and normalisers of some data."""
    policy = ConsistencyPolicy(3, 2, LOW, HIGH, bound=bound, **{"hidden": [16, 16], **overrides})
    observations, actions = data()
    policy.fit_normalizers(observations, actions)
    return policy


def data(count: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    observations = 5 + 3 * torch.randn(count, 3, generator=generator)
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    return observations, low + (high - low) * torch.rand(count, 2, generator=generator)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network_inputs(policy: ConsistencyPolicy, call: Callable[[], object]) -> list[list[Tensor]]:
    """What the online network is called with while `call` runs: [x, c_noise, condition] each."""
    seen: list[list[Tensor]] = []
    hook = policy.network.register_forward_pre_hook(lambda _, args: seen.append(list(args)))
    call()
    hook.remove()
    for inputs in seen:  # a Fourier embedding begins with c_noise itself
        inputs[1] = inputs[1] if inputs[1].ndim == 1 else inputs[1][:, 0]
    return seen


# The consistency function ------------------------------------------------------------------------


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize(("bound", "dtype"), [("tanh", torch.float32), ("clamp", torch.float64)])
def test_f_is_the_identity_at_the_boundary(
    bound: str, parameterization: str, dtype: torch.dtype
) -> None:
    """Trap: a tanh on the model's input or output breaks f(x, ε) = x."""
    policy = small(bound, parameterization=parameterization).to(dtype)
    for _ in range(20):
        with torch.no_grad():
            for p in policy.network.parameters():
                p.normal_()
        x, condition = 3 * torch.randn(16, 2, dtype=dtype), torch.randn(16, 3, dtype=dtype)
        sigma = torch.full((16,), policy.parameterization.boundary, dtype=dtype)
        y = policy.f(x, sigma, condition)
        torch.testing.assert_close(y, x, rtol=4 * torch.finfo(dtype).eps, atol=1e-12)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_squash_breaks_the_boundary_condition_as_documented(parameterization: str) -> None:
    policy = small("squash", parameterization=parameterization)
    x, condition = 3 * torch.randn(16, 2), torch.randn(16, 3)
    y = policy.f(x, torch.full((16,), policy.parameterization.boundary), condition)
    torch.testing.assert_close(y, x.tanh().tanh(), rtol=1e-5, atol=1e-6)
    assert (y - x).abs().max() > 1


@pytest.mark.parametrize("bound", ["tanh", "clamp"])
def test_the_network_sees_the_noisy_latent_and_not_its_tanh(bound: str) -> None:
    """Trap: tanh on the noisy input breaks the noise process."""
    policy = small(bound)
    observations = torch.randn(50, 3)
    z = torch.randn(50, 2)
    [[x, c_noise, condition]] = network_inputs(policy, lambda: policy(observations, noise=z))
    torch.testing.assert_close(x, 10 * z / math.sqrt(10**2 + 0.25))
    torch.testing.assert_close(c_noise, torch.full((1,), math.log(10) / 4))
    torch.testing.assert_close(condition, (observations - policy.obs_mean) / policy.obs_std)


def test_one_step_sampling_by_hand() -> None:
    policy = small()
    observations, z = torch.randn(4, 3), torch.randn(4, 2)
    raw = policy.network(
        10 * z / math.sqrt(10**2 + 0.25),
        torch.full((4,), math.log(10) / 4),
        (observations - data()[0].mean(0)) / data()[0].std(0),
    )
    skip, out = 0.25 / ((10 - 0.002) ** 2 + 0.25), 0.5 * (10 - 0.002) / math.sqrt(10**2 + 0.25)
    latent = skip * 10 * z + out * raw
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    scaled = 2 * (data()[1] - low) / (high - low) - 1
    u = (0.97 * scaled.clamp(-1, 1)).atanh()
    expected = ((latent / 0.5 * u.std(0) + u.mean(0)).tanh() / 0.97).clamp(-1, 1)
    expected = low + (high - low) * (expected + 1) / 2
    torch.testing.assert_close(policy(observations, noise=z), expected, rtol=1e-4, atol=1e-4)


# Sampling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_as_many_network_calls_as_steps(steps: int) -> None:
    policy = small(steps=steps)
    observations = torch.randn(5, 3)
    assert len(network_inputs(policy, lambda: policy(observations))) == steps
    seen = network_inputs(policy, lambda: policy(observations, levels=[80.0, 1.0, 0.5]))
    assert [c[0].item() for _, c, _ in seen] == pytest.approx(
        [math.log(80) / 4, 0.0, math.log(0.5) / 4]
    )


@pytest.mark.parametrize("bound", BOUNDS)
def test_noise_decides_the_actions(bound: str) -> None:
    policy = small(bound, steps=2)
    observations = torch.randn(5, 3)
    first, second = (torch.randn(5, 2, generator=generator(s)) for s in (1, 2))
    whole = policy(observations, noise=torch.stack((first, second), dim=1))
    assert torch.equal(policy(observations, noise=first, generator=generator(2)), whole)
    assert not torch.equal(policy(observations, noise=first, generator=generator(3)), whole)
    assert not torch.equal(policy(observations, noise=second, generator=generator(2)), whole)


@pytest.mark.parametrize("shape", [(1, 2), (5, 1), (5,), (5, 1, 2), (5, 3, 2), (2, 5, 2), ()])
def test_noise_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"noise must have shape \(5, 2\) or \(5, 2, 2\)"):
        small(steps=2)(torch.zeros(5, 3), noise=torch.zeros(shape))


@pytest.mark.parametrize("bound", BOUNDS)
def test_actions_are_differentiable_in_weights_and_observations(bound: str) -> None:
    policy = small(bound, steps=2)
    observations = data()[0].requires_grad_()
    policy(observations).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in policy.network.parameters())
    assert observations.grad is not None
    assert observations.grad.any()


@pytest.mark.parametrize(
    ("observation", "shape"),
    [
        ([5, 5, 5], (2,)),
        (np.ones((1, 3)), (1, 2)),
        (np.ones((7, 3), np.int8), (7, 2)),
        (np.ones((0, 3)), (0, 2)),
        (np.ones((4, 2, 3)), (4, 2, 2)),
        (torch.full((2, 3), 5.0, requires_grad=True), (2, 2)),
    ],
)
def test_act_gives_what_forward_gives_as_numpy(observation: Any, shape: tuple[int, ...]) -> None:
    policy = small()
    actions = policy.act(observation, generator=generator(3))
    assert isinstance(actions, np.ndarray)
    assert (actions.shape, actions.dtype) == (shape, np.float32)
    rows = torch.as_tensor(observation).detach().float().reshape(-1, 3)
    expected = policy(rows, generator=generator(3))
    np.testing.assert_allclose(actions.reshape(-1, 2), expected.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", ["read-only", "reversed"])
def test_act_on_arrays_that_torch_cannot_share(kind: str) -> None:
    observations = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = small().act(observations.copy(), generator=generator())
    observations.flags.writeable = False
    if kind == "reversed":
        observations = np.ascontiguousarray(observations[::-1])[::-1]
    torch.manual_seed(0)
    np.testing.assert_array_equal(small().act(observations, generator=generator()), expected)


@pytest.mark.parametrize("steps", [1, 3])
def test_act_with_a_generator_is_deterministic(steps: int) -> None:
    policy = small(steps=steps)
    observation = np.ones((4, 3))
    state = torch.get_rng_state()
    first = policy.act(observation, generator=generator(1))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(policy.act(observation, generator=generator(1)), first)
    assert not np.array_equal(policy.act(observation, generator=generator(2)), first)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_mode_is_where_the_samples_of_even_noise_lie_closest(steps: int) -> None:
    policy, levels = small(), [5.0, 1.0, 0.1][:steps]
    observations = torch.randn(4, 3)
    noise = torch.tensor(sobol_normal(16, steps * 2)).reshape(16, steps, 2)
    for obs, mode in zip(observations, policy.mode(observations, 16, levels=levels), strict=True):
        actions = policy(obs.expand(16, 3), noise=noise, levels=levels)
        unit = 0.4 * policy.bound.spread
        torch.testing.assert_close(mode, find_mode(actions[None] / unit)[0] * unit)


def test_a_mode_draws_nothing_and_knows_nothing_of_its_batch() -> None:
    policy, observations = small(), np.random.default_rng(0).normal(size=(6, 3))
    before = torch.get_rng_state()
    modes = policy.act(observations, mode_of=8)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(policy.act(observations, mode_of=8), modes)
    np.testing.assert_allclose(policy.act(observations[4], mode_of=8), modes[4], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_policy_acts_in_other_precisions(dtype: torch.dtype) -> None:
    policy = small(steps=2)
    other = copy.deepcopy(policy).to(dtype)
    observations, noise = data(6)[0], torch.randn(6, 2, 2)
    expected, error = policy(observations, noise=noise), 20 * torch.finfo(dtype).eps ** 0.9
    actions = other(observations.double(), noise=noise.to(dtype))
    assert actions.dtype == dtype
    torch.testing.assert_close(actions.float(), expected, rtol=0, atol=max(error, 1e-5))
    for mode_of in (1, 8):
        acted = other.act(observations.numpy(), mode_of=mode_of)
        assert acted.dtype == np.float32
        assert ((np.float32(LOW) <= acted) & (acted <= np.float32(HIGH))).all()
    if dtype != torch.float64:
        with pytest.raises(ValueError, match=f"train in float32 or float64, not {dtype}"):
            other.loss(*data())


def test_float64_observations_are_cast() -> None:
    policy, (observations, actions) = small(), data()
    value = policy.loss(observations.double(), actions.double(), generator=generator())
    assert value == policy.loss(observations, actions, generator=generator())
    acted = policy.act(observations.double().numpy(), generator=generator())
    np.testing.assert_array_equal(acted, policy.act(observations.numpy(), generator=generator()))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_act_refuses_observations_that_are_not_finite(wrong: float) -> None:
    observations = np.ones((4, 3))
    observations[2, 1] = wrong
    with pytest.raises(ValueError, match=rf"observation is {wrong} at index \[2, 1\]"):
        small().act(observations)


@pytest.mark.parametrize("mode_of", [0, -3])
def test_a_mode_of_no_samples_is_refused(mode_of: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        small().act(np.ones(3), mode_of=mode_of)
    with pytest.raises(ValueError, match="at least one sample"):
        small().mode(torch.ones(1, 3), mode_of)


@pytest.mark.parametrize("mode_of", [1, 8])
def test_large_batches_are_computed_in_parts(mode_of: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, observations = small(), data(50)[0].numpy()
    whole = policy.act(observations, mode_of=mode_of, generator=generator())
    monkeypatch.setattr("cmpolicy.policy.acting_policy.MAX_NUMBERS", 100)
    calls = network_inputs(
        policy, lambda: policy.act(observations, mode_of=mode_of, generator=generator())
    )
    assert len(calls) > 1
    assert sum(len(x) for x, _, _ in calls) == 50 * mode_of
    if mode_of > 1:  # a plain sample draws its noise part by part
        parts = policy.act(observations, mode_of=mode_of)
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)


def test_a_mode_can_be_compiled_and_vectorised() -> None:
    policy, observations = small(), data(5)[0]
    expected = policy.mode(observations, 8)
    compiled = torch.compile(lambda o: policy.mode(o, 8), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(observations), expected)
    mapped = torch.func.vmap(lambda o: policy.mode(o, 8))(observations[:, None])
    torch.testing.assert_close(mapped[:, 0], expected)


@pytest.mark.parametrize("shape", [(2,), (4, 2), (4, 1), (4, 4), (3, 4), ()])
def test_observations_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"observations must have shape \(\.\.\., 3\)"):
        small()(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"observations must have shape \(\.\.\., 3\)"):
        small().act(np.zeros(shape))


def test_a_generator_decides_the_loss() -> None:
    policy = small()
    first = policy.loss(*data(), generator=generator(1))
    assert policy.loss(*data(), generator=generator(1)) == first
    assert policy.loss(*data(), generator=generator(2)) != first


# The loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "bound"), [*((loss, "tanh") for loss in LOSSES), ("ict", "squash")]
)
def test_the_gradient_of_the_loss_reaches_the_network_alone(loss: str, bound: str) -> None:
    policy = small(bound, loss=loss)
    value = policy.loss(*data(), 0.5)
    assert value.shape == ()
    value.backward()
    reached = {name for name, p in policy.named_parameters() if p.grad is not None}
    assert reached == {f"network.{name}" for name, _ in policy.network.named_parameters()}
    assert all(p.grad is not None and p.grad.any() for p in policy.network.parameters())


def test_the_loss_of_a_batch_is_the_mean_over_its_samples() -> None:
    policy = small()
    observations, actions = data(8)
    whole = policy.loss(observations, actions, 0.5, generator=generator())
    parts = []
    for i in range(8):
        weight = torch.zeros(8)
        weight[i] = 1.0
        parts.append(policy.loss(observations, actions, 0.5, weight, generator()))
    torch.testing.assert_close(torch.stack(parts).sum(), whole)
    weights = torch.rand(8)
    weighted = policy.loss(observations, actions, 0.5, weights, generator())
    torch.testing.assert_close(weighted, (weights * torch.stack(parts)).sum())


def test_progress_as_number_and_as_tensor_agree() -> None:
    policy = small()
    for k in (0.0, 0.3, 1.0):
        number = policy.loss(*data(), k, generator=generator())
        assert policy.loss(*data(), torch.tensor(k), generator=generator()) == number


def test_the_curriculum_follows_progress_to_the_end() -> None:
    """With CT's default s₀ = 2 there is one interval at the start and 150 at the end."""
    policy = small(loss="ct")
    counts = []
    for progress in (0.0, 0.1, 1.0):
        observations, actions = data(5000)
        [[_, c_noise, _]] = network_inputs(
            policy, lambda p=progress, o=observations, a=actions: policy.loss(o, a, p)
        )
        counts.append(len(c_noise.unique()))
    assert counts[0] == 1
    assert counts[1] == math.ceil(math.sqrt(0.1 * (151**2 - 4) + 4) - 1)
    assert counts[2] == 150


@pytest.mark.parametrize("wrong", ["observations", "actions", "weight"])
def test_the_loss_refuses_shapes_that_would_broadcast(wrong: str) -> None:
    """Trap: (B, 1) against (B,) or (B, d) broadcasts silently."""
    observations, actions = data(8)
    arguments = {"observations": observations, "actions": actions, "weight": torch.ones(8)}
    arguments[wrong] = torch.ones(8, 1)
    with pytest.raises(ValueError, match=wrong):
        small().loss(**arguments)


# The target network ------------------------------------------------------------------------------


def test_only_ct_has_a_target_and_it_starts_as_a_copy() -> None:
    assert small(loss="ict").target_network is None
    policy = small(loss="ct")
    assert policy.target_network is not None
    pairs = zip(policy.network.parameters(), policy.target_network.parameters(), strict=True)
    for online, target in pairs:
        assert torch.equal(online, target)
        assert online.data_ptr() != target.data_ptr()
        assert not target.requires_grad


@pytest.mark.parametrize("progress", [0.0, 0.4])
def test_the_target_moves_only_by_update_target_and_towards_the_online_network(
    progress: float,
) -> None:
    policy = small(loss="ct")
    assert policy.target_network is not None
    start = [p.detach().clone() for p in policy.target_network.parameters()]
    optimizer = torch.optim.Adam((p for p in policy.parameters() if p.requires_grad), lr=0.1)
    for _ in range(3):
        policy.loss(*data(), progress).backward()
        optimizer.step()
        policy(data()[0])
    for before, target in zip(start, policy.target_network.parameters(), strict=True):
        assert torch.equal(before, target)

    online = [p.detach().clone() for p in policy.network.parameters()]
    policy.update_target(progress)
    n = math.ceil(math.sqrt(progress * (151**2 - 4) + 4) - 1) + 1
    mu = math.exp(2 * math.log(0.9) / n)
    for before, o, p, target in zip(
        start, online, policy.network.parameters(), policy.target_network.parameters(), strict=True
    ):
        torch.testing.assert_close(target, mu * before + (1 - mu) * o, rtol=1e-5, atol=1e-6)
        assert (target - o).norm() < (before - o).norm()
        assert torch.equal(p, o)


def test_the_loss_of_ct_compares_with_the_target() -> None:
    policy = small(loss="ct")
    before = policy.loss(*data(), generator=generator())
    assert policy.target_network is not None
    with torch.no_grad():
        for p in policy.target_network.parameters():
            p.normal_()
    assert (policy.loss(*data(), generator=generator()) - before).abs() > 1e-3
    policy(data()[0], generator=generator())


def test_actions_come_from_the_online_network() -> None:
    policy = small(loss="ct")
    before = policy.act(np.ones(3), generator=generator())
    assert policy.target_network is not None
    with torch.no_grad():
        for p in policy.target_network.parameters():
            p.normal_()
    np.testing.assert_array_equal(policy.act(np.ones(3), generator=generator()), before)


# Normalisers -------------------------------------------------------------------------------------


def test_observations_are_standardised_by_the_data() -> None:
    observations, _ = data()
    normal = small().normalize(observations)
    torch.testing.assert_close(normal.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(normal.std(0), torch.ones(3), rtol=1e-4, atol=0)
    assert torch.equal(small(normalize_obs=False).normalize(observations), observations)


def test_constant_tiny_huge_and_offset_observations_are_standardised() -> None:
    policy, observations = ConsistencyPolicy(3, 2, hidden=[8]), torch.randn(5000, 3)
    observations = torch.tensor([0.0, 3e4, -1e8]) + torch.tensor([1e-6, 1.0, 1e3]) * observations
    policy.fit_normalizers(observations, torch.rand(5000, 2))
    normal = policy.normalize(observations)
    assert normal.std(0).tolist() == pytest.approx([1, 1, 1], rel=1e-3)
    assert normal.mean(0).abs().max() < 0.02


def test_a_constant_observation_has_its_own_size_as_its_unit() -> None:
    policy, observations = ConsistencyPolicy(3, 2, hidden=[8]), torch.zeros(50, 3)
    observations[:, 1:] = torch.tensor([400.0, 0.1])
    observations[7, 1] = 400.00003  # rounding
    policy.fit_normalizers(observations.numpy(), torch.rand(50, 2).numpy())
    normal = policy.normalize(torch.tensor([[0.5, 440.0, 0.1]]))
    torch.testing.assert_close(normal, torch.tensor([[0.5, 0.1, 0.0]]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, None])
def test_data_without_statistics_are_refused(wrong: float | None) -> None:
    observations, actions = torch.zeros(4, 3), torch.zeros(4, 2)
    if wrong is None:
        observations, actions = observations[:0], actions[:0]
    else:
        observations[2, 1] = wrong
    with pytest.raises(ValueError, match="need finite observations"):
        ConsistencyPolicy(3, 2).fit_normalizers(observations, actions)
    with pytest.raises(ValueError, match=r"actions must have shape \(4, 2\), got \(4, 1\)"):
        ConsistencyPolicy(3, 2).fit_normalizers(torch.zeros(4, 3), torch.zeros(4, 1))


# Names and values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("bound", BOUNDS),
        ("parameterization", PARAMETERIZATIONS),
        ("activation", ("relu", "silu", "mish")),
        ("embedding", ("fourier", "sinusoidal")),
    ],
)
def test_unknown_names_are_refused_with_a_list_of_what_exists(key: str, names: Any) -> None:
    with pytest.raises(ValueError, match=f"unknown {key} 'nonsense'") as caught:
        ConsistencyPolicy(3, 2, **{key: "nonsense"})
    assert all(name in str(caught.value) for name in names)
    with pytest.raises(ValueError, match=f"unknown {key}"):
        PolicyConfig(**{key: "nonsense"})


@pytest.mark.parametrize(
    "overrides",
    [
        *({"steps": value} for value in (0, 1.5, math.nan, 1_000_000)),
        *({"hidden": value} for value in ([], [16, 0], [1e30], [8] * 1000)),
        *({"sigma_min": value} for value in (0.0, 80.0, math.nan)),
        *({"sigma_max": value} for value in (1e308, math.inf, math.nan)),
        *({"levels": value} for value in ([], [1.0, 2.0], [80.0, 0.002], [math.nan], [1e30, 1.0])),
        *({"loss_options": {"p_std": value}} for value in (0, -1.0, math.nan, 1e30)),
        *({"loss_options": {key: 10**9}} for key in ("s0", "s1")),
        {"loss_options": {"nonsense": 1}},
        {"loss_options": {"metric": "nonsense"}},
        {"loss": "ct", "loss_options": {"weight": "nonsense"}},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(overrides: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ConsistencyPolicy(3, 2, **overrides)


@pytest.mark.parametrize("dim", [0, -1, 2.5, 1e30, 10**30, math.nan, "3"])
def test_dimensions_are_whole_numbers(dim: Any) -> None:
    for dims in ((dim, 2), (3, dim)):
        with pytest.raises(ValueError, match="_dim must be a whole number from 1 to"):
            ConsistencyPolicy(*dims)


def test_a_policy_keeps_its_configuration_and_leaves_the_callers_alone() -> None:
    config = PolicyConfig(hidden=[8], bound="clamp")
    policy = ConsistencyPolicy(3, 2, config=config, steps=2)
    assert policy.config.bound == "clamp"
    assert policy.config.steps == 2
    assert config.steps == 1


# What it is for ----------------------------------------------------------------------------------


def test_one_step_samples_both_modes() -> None:
    """a = (±0.7 by the toss of a coin, s/2).

    The best Gaussian has 17 % of its mass within 0.25 of each mode and 38 % within 0.35 of 0.
    """
    policy = ConsistencyPolicy(1, 2, hidden=[64, 64], loss_options={"s1": 160})
    s = 2 * torch.rand(8192, 1) - 1
    coin = 2.0 * torch.randint(0, 2, (8192, 1)) - 1
    actions = torch.cat((0.7 * coin, 0.5 * s), dim=1)
    policy.fit_normalizers(s, actions)
    optimizer = torch.optim.Adam(policy.network.parameters(), lr=2e-3)
    steps = 2500
    for k in range(steps):
        rows = torch.randint(0, 8192, (256,))
        loss = policy.loss(s[rows], actions[rows], k / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sampled = policy.act(s[:4000].numpy(), generator=generator())
    assert np.abs(sampled).max() <= 1
    first, s_ = sampled[:, 0], s[:4000, 0].numpy()
    assert (np.abs(first - 0.7) < 0.25).mean() > 0.28
    assert (np.abs(first + 0.7) < 0.25).mean() > 0.28
    assert (np.abs(first) < 0.35).mean() < 0.17
    assert np.abs(sampled[:, 1] - 0.5 * s_).mean() < 0.12
