"""ActionBound: every legal Box, latents that depend on the data alone, and the mode's unit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cmpolicy.policy.action_bounds import BOUNDS, ActionBound
from cmpolicy.policy.action_spread import action_spread
from cmpolicy.policy.consistency_policy import ConsistencyPolicy

LARGEST = float(np.finfo(np.float32).max)
LEGAL = {
    "unequal": ([-2.0, 0.0], [1.0, 5.0]),
    "inexact in float32": ([0.1, -0.7], [0.7, 0.3]),
    "narrow and wide": ([1e-3, -1e4], [2e-3, 1e5]),
    "fixed actuators": ([0.5, 0.1], [0.5, 0.1]),
    "largest float32": (-LARGEST, LARGEST),
    "largest float64": (-1.7e308, 1.7e308),
    "one-sided": ([0.0, -math.inf], [math.inf, -300.0]),
    "none": (-math.inf, math.inf),
    "integers": ([0, -3], [255, 4]),
}


def two(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).expand(2)


def recorded(low: Any, high: Any, rows: int = 300) -> Tensor:
    """Actions in the bounds, of a range that is at most 20."""
    least = torch.where(two(low) < -10, (two(high) - 20).clamp(max=-10), two(low))
    fraction = torch.rand(rows, 2, dtype=torch.float64)
    return (least + fraction * (two(high) - least).clamp(max=20)).float()


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("legal", LEGAL)
def test_actions_are_finite_and_inside_every_legal_box(
    legal: str, fitted: bool, bound: str
) -> None:
    low, high = LEGAL[legal]
    policy = ConsistencyPolicy(3, 2, low, high, bound=bound, hidden=[16, 16], steps=2)
    actions = recorded(low, high)
    if fitted:
        policy.fit_normalizers(torch.randn(300, 3), actions)
        assert policy.loss(torch.randn(300, 3), actions).isfinite()
    for scale in (1.0, 1e3, 1e9):
        with torch.no_grad():
            for p in policy.network.parameters():
                p.mul_(scale)
        for mode_of in (1, 8):
            acted = policy.act(10 * np.random.default_rng(0).normal(size=(50, 3)), mode_of=mode_of)
            assert acted.dtype == np.float32
            assert np.isfinite(acted).all()
            if legal == "fixed actuators":
                np.testing.assert_array_equal(acted, np.float32([[0.5, 0.1]] * 50))
            else:
                assert (two(low).numpy() <= acted).all()
                assert (acted <= two(high).numpy()).all()


@pytest.mark.parametrize("bound", BOUNDS)
def test_any_latent_is_decoded_inside_random_bounds(bound: str) -> None:
    """A third of all pairs of float32 bounds is overstepped by center + half_range · 1."""
    low = torch.rand(4000) * 6 - 3
    high = low + torch.rand(4000) + 1e-3
    made = ActionBound(bound, 4000, low.tolist(), high.tolist())
    for x in (-math.inf, -1e30, -50.0, -1.0, 0.0, 1.0, 50.0, 1e30, math.inf, math.nan):
        actions = made.decode(torch.full((1, 4000), x))
        assert ((low <= actions) & (actions <= high)).all()


@pytest.mark.parametrize(
    ("low", "high"),
    [(1.0, -1.0), (0.0, math.nan), ([0, 0], [1, -1]), (math.inf, math.inf), (-math.inf, -math.inf)],
)
def test_impossible_bounds_are_refused(low: Any, high: Any) -> None:
    with pytest.raises(ValueError, match="need action_low ≤ action_high"):
        ActionBound("tanh", 2, low, high)


@pytest.mark.parametrize("actions", [torch.zeros(0, 2), torch.tensor([[0.0, math.nan]])])
def test_actions_that_cannot_be_measured_are_refused(actions: Tensor) -> None:
    with pytest.raises(ValueError, match="need finite actions"):
        ActionBound("tanh", 2).fit(actions)


# Latents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOUNDS)
def test_encode_and_decode_are_inverse(kind: str) -> None:
    low, high = LEGAL["unequal"]
    made = ActionBound(kind, 2, low, high)
    actions = torch.cat((recorded(low, high), torch.tensor([low, high])))
    made.fit(actions)
    latents = made.encode(actions)
    assert latents.isfinite().all()
    torch.testing.assert_close(made.decode(latents), actions, rtol=1e-4, atol=1e-5)


def test_tanh_latents_are_standardised_atanh() -> None:
    low, high = (np.array(end) for end in LEGAL["unequal"])
    actions = recorded(low, high)
    made = ActionBound("tanh", 2, low.tolist(), high.tolist())
    made.fit(actions)
    u = np.arctanh(0.97 * (2 * (actions.double().numpy() - low) / (high - low) - 1))
    expected = 0.5 * (u - u.mean(0)) / u.std(0, ddof=1)
    np.testing.assert_allclose(made.encode(actions).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["clamp", "squash"])
def test_other_latents_are_actions_scaled_to_one(kind: str) -> None:
    low, high = LEGAL["unequal"]
    made = ActionBound(kind, 2, low, high)
    made.fit(recorded(low, high))
    corners = torch.tensor([low, high, [-0.5, 2.5]])
    expected = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(made.encode(corners), expected)


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("offset", [0.0, -40.0, 7.0])
def test_bounds_that_data_never_come_near_change_nothing(kind: str, offset: float) -> None:
    actions = offset + recorded(-0.5, 0.5)
    near = ActionBound(kind, 2, offset - 1.5, offset + 1.5)
    near.fit(actions)
    for reach in (50.0, 1e4, 1e7, LARGEST, math.inf):
        far = ActionBound(kind, 2, -reach, reach)
        far.fit(actions)
        torch.testing.assert_close(far.encode(actions), near.encode(actions), rtol=0, atol=5e-3)
        torch.testing.assert_close(far.decode(far.encode(actions)), actions, rtol=0, atol=1e-4)
        torch.testing.assert_close(far.spread, near.spread)
    one_sided = ActionBound(kind, 2, actions.amin(0).tolist(), 1e9)
    one_sided.fit(actions)
    torch.testing.assert_close(
        one_sided.decode(one_sided.encode(actions)), actions, atol=1e-4, rtol=0
    )


def test_only_bounds_farther_than_the_range_of_the_data_are_drawn_in() -> None:
    actions = recorded(-0.5, 0.5)
    actions[:2] = torch.tensor([[-0.5, -0.5], [0.5, 0.5]])
    made = ActionBound("tanh", 2, [-1.4, -9.0], [1.0, 0.5])
    made.fit(actions)
    assert made.low.tolist() == pytest.approx([-1.4, -1.5])
    assert made.high.tolist() == pytest.approx([1.0, 0.5])
    assert made.half_range.tolist() == pytest.approx([1.2, 1.0])
    made.fit(4 * actions)  # other data: nothing is left of the first
    assert made.low.tolist() == pytest.approx([-1.4, -4.5])  # 2 lies beyond the bound 0.5


@pytest.mark.parametrize("rows", [1, 50])
def test_a_constant_entry_is_always_what_it_was(rows: int) -> None:
    actions = recorded(-0.5, 0.5, rows)
    actions[:, 1] = 0.3
    policy = ConsistencyPolicy(3, 2, hidden=[8])
    policy.fit_normalizers(torch.randn(rows, 3), actions)
    assert policy.loss(torch.randn(rows, 3), actions).isfinite()
    acted = policy.act(np.random.default_rng(0).normal(size=(20, 3)))
    np.testing.assert_array_equal(acted[:, 1], np.float32(0.3))


# The unit of the mode's kernel -------------------------------------------------------------------


def test_the_spread_is_half_the_range_and_of_few_values_a_quarter_of_their_gap() -> None:
    rows, pick = 4000, torch.Generator().manual_seed(0)
    index = torch.randint(0, 9999, (rows,), generator=pick)
    blur = 0.03 * torch.randn(rows, generator=pick).clamp(-3, 3)
    uniform = torch.rand(rows, generator=pick)
    columns = {
        "two values": (torch.where(index % 7 == 0, 1.0, -1.0), 0.5),
        "two blurred": (torch.where(index % 2 == 0, 1.0, -1.0) + blur, 0.45),
        "of 0 and 1": ((index % 2).float(), 0.25),
        "six gears": ((index % 6).float(), 0.25),
        "unequal gaps": (torch.tensor([0.0, 1.0, 5.0])[index % 3], 0.25),
        "uniform": (uniform, 0.5),
        "normal": (torch.randn(rows, generator=pick).clamp(-3, 3), 3.0),
        "100 values": ((index % 100).float(), 49.5),
        "a ramp between two": ((4 * uniform - 2).clamp(-1, 1), 1.0),
        "constant": (torch.full((rows,), 0.3), 0.0),
    }
    spread = action_spread(torch.stack([column for column, _ in columns.values()], dim=1))
    expected = [value for _, value in columns.values()]
    assert spread.tolist() == pytest.approx(expected, rel=0.1)


def test_few_rows_are_not_taken_for_few_values() -> None:
    assert action_spread(torch.tensor([[-1.0], [0.1], [1.0]])).item() == 1.0
    assert action_spread(torch.tensor([[2.0]])).item() == 0.0


def test_much_data_are_measured_to_their_ends() -> None:
    actions = torch.linspace(-1, 1, 70_001)[torch.randperm(70_001)][:, None]
    assert action_spread(actions).item() == 1.0


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 400.0])
@pytest.mark.parametrize(("arms", "grippers"), [(0, 1), (3, 1), (6, 2), (0, 10), (20, 4)])
def test_a_mode_is_at_values_that_were_recorded(
    arms: int, grippers: int, unit: float, offset: float
) -> None:
    """Samples of some arms and grippers: a mode leaves none of the grippers half open."""
    dim = arms + grippers
    policy = ConsistencyPolicy(1, dim, -1e6, 1e6)
    coin = 2.0 * torch.randint(0, 2, (4000, grippers)) - 1
    arm = (0.3 * torch.randn(4000, arms)).clamp(-1, 1)
    actions = offset + unit * torch.cat((arm, coin), dim=1)
    policy.fit_normalizers(torch.zeros(4000, 1), actions)
    with pytest.MonkeyPatch.context() as patch:  # samples are the data's actions
        patch.setattr(policy, "forward", lambda o, **_: actions[: len(o)])
        modes = policy.act(np.zeros((100, 1)), mode_of=32)
    size = np.abs(modes - offset)[:, arms:] / unit
    np.testing.assert_allclose(size, np.ones_like(size), rtol=0.02)
    if arms:  # noise is averaged
        assert (
            np.abs(modes[:, :arms] - offset).mean()
            < 0.8 * (actions[:, :arms] - offset).abs().mean()
        )
