from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cmpolicy.datasets import TransitionBatch, TransitionDataset, n_step
from cmpolicy.errors import InputError

FIELDS = TransitionBatch._fields[:5]  # what is recorded


def usable_steps(arrays, max_episode_steps=None):
    """The transitions by a plain loop, and which of them end an episode."""
    kept, ends, since_begin = {field: [] for field in FIELDS}, [], 0
    count = len(arrays["rewards"])
    for i in range(count):
        below = arrays["observations"][(i + 1) % count]
        after = arrays["next_observations"][i] if "next_observations" in arrays else below
        since_begin += 1
        if "timeouts" in arrays:
            cut = bool(arrays["timeouts"][i])
        else:
            cut = since_begin == max_episode_steps
        cut, ended = cut or i == count - 1, bool(arrays["terminals"][i])
        goes_on = bool((after == below).all())
        if cut or ended or not goes_on:
            since_begin = 0
        if cut and goes_on and not ended:  # what followed is another episode's, or nothing
            if ends:
                ends[-1] = True
            continue
        ends.append(ended or cut or not goes_on)
        row = (arrays["observations"][i], arrays["actions"][i], arrays["rewards"][i], after, ended)
        for field, value in zip(FIELDS, row, strict=True):
            kept[field].append(value)
    return {field: np.array(rows, np.float32) for field, rows in kept.items()}, ends


@pytest.mark.parametrize("nexts", [None, "of the same episode", "of the row below", "shuffled"])
@pytest.mark.parametrize("max_episode_steps", [None, 4, 1000])
@pytest.mark.parametrize("flags", ["timeouts", "no timeouts", "both", "terminal at the end"])
def test_every_usable_step_is_a_transition(recorded, flags, max_episode_steps, nexts):
    if nexts:
        recorded["next_observations"] = np.roll(recorded["observations"], -1, axis=0)
    if nexts == "of the same episode":
        over = recorded["terminals"] | recorded["timeouts"]
        recorded["next_observations"][over] = 100
    if nexts == "shuffled":
        recorded["next_observations"][::2] += 1
    if flags == "both":
        recorded["timeouts"] |= recorded["terminals"]
    if flags == "no timeouts":
        del recorded["timeouts"]
    if flags == "terminal at the end":
        recorded["terminals"][-1], recorded["timeouts"][-1] = True, False
    dataset = TransitionDataset.from_arrays(**recorded, max_episode_steps=max_episode_steps)
    expected, ends = usable_steps(recorded, max_episode_steps)
    for field, values in expected.items():
        np.testing.assert_array_equal(getattr(dataset, field), values)
    assert dataset.episode_ends.tolist() == ends


def test_rows_of_several_environments_are_not_taken_for_one_episode():
    """A buffer that two environments filled in turn: row i + 2 follows row i."""
    rewards = np.arange(6.0)
    dataset = TransitionDataset.from_arrays(
        [[0.0], [10.0], [1.0], [11.0], [2.0], [12.0]],
        np.zeros((6, 1)),
        rewards,
        np.zeros(6),
        next_observations=[[1.0], [11.0], [2.0], [12.0], [3.0], [13.0]],
    )
    assert (len(dataset), dataset.info.episodes) == (6, 6)
    assert n_step(dataset, 3, 0.9).rewards.tolist() == rewards.tolist()


def test_a_terminal_masks_and_a_timeout_drops():
    dataset = TransitionDataset.from_arrays(
        observations=[[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]],
        actions=[[0.0], [0.1], [0.2], [0.3], [0.4], [0.5]],
        rewards=[10, 11, 12, 13, 14, 15],
        terminals=[0, 1, 0, 0, 0, 0],
        timeouts=[0, 0, 0, 1, 0, 0],
    )
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 4]
    assert dataset.next_observations[:, 0].tolist() == [1, 2, 3, 5]
    assert dataset.terminals.tolist() == [0, 1, 0, 0]
    assert dataset.rewards.tolist() == [10, 11, 12, 14]
    assert dataset.episode_ends.tolist() == [False, True, True, True]
    assert dataset.episode_returns().tolist() == [21, 12, 14]
    assert (dataset.info.transitions, dataset.info.episodes) == (4, 3)
    assert dataset.info.mean_return == pytest.approx((21 + 25 + 29) / 3)  # as recorded


class Episode:
    def __init__(self, observations, actions, rewards, terminations):
        self.observations, self.actions = observations, actions
        self.rewards, self.terminations = rewards, terminations


def test_an_episode_has_one_observation_more_than_actions():
    episodes = [
        Episode([[0.0], [1.0], [2.0], [3.0]], [[0.1], [0.2], [0.3]], [1, 2, 3], [0, 0, 1]),
        Episode([[7.0], [8.0]], [[0.7]], [7], [0]),  # truncated: its last step is known
        Episode([[9.0]], np.zeros((0, 1)), [], []),  # reset, and left
    ]
    dataset = TransitionDataset.from_episodes(episodes)
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 7]
    assert dataset.next_observations[:, 0].tolist() == [1, 2, 3, 8]
    assert dataset.actions[:, 0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.7])
    assert dataset.terminals.tolist() == [0, 0, 1, 0]
    assert dataset.episode_ends.tolist() == [False, False, True, True]
    assert dataset.info.mean_return == pytest.approx(6.5)


def test_episodes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"episode 0 has 2 observations, 2 actions.*T\+1"):
        TransitionDataset.from_episodes([Episode([[0.0], [1.0]], [[0.0], [0.0]], [0, 0], [0, 0])])
    with pytest.raises(InputError, match="no steps"):
        TransitionDataset.from_episodes([])
    one = Episode([[0.0], [1.0]], [[0.0]], [0], [0])
    two = Episode([[0.0, 0.0], [1.0, 1.0]], [[0.0]], [0], [0])
    with pytest.raises(InputError, match=r"observations has steps of shapes \(1,\) and \(2,\)"):
        TransitionDataset.from_episodes([one, two])


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "next_observations"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_name_the_first_bad_row(recorded, key, value):
    recorded["next_observations"] = recorded["observations"].copy()
    recorded[key][[17, 40]] = value
    with pytest.raises(InputError, match=rf"{key}\[17\] holds NaN or inf .* 2 of 60"):
        TransitionDataset.from_arrays(**recorded)


def test_a_float64_beyond_float32_is_refused(recorded):
    recorded["rewards"] = recorded["rewards"].astype(np.float64)
    recorded["rewards"][3] = 1e300
    with pytest.raises(InputError, match=r"rewards\[3\] holds NaN or inf"):
        TransitionDataset.from_arrays(**recorded)


@pytest.mark.parametrize(
    ("key", "wrong", "said"),
    [
        ("observations", lambda a: a[:, 0], r"observations has shape \(60,\), expected \(steps"),
        ("actions", lambda a: a[:, None], r"actions has shape \(60, 1, 2\)"),
        ("rewards", lambda a: a[:, None].repeat(2, 1), r"rewards has shape \(60, 2\)"),
        ("rewards", lambda a: a[:-1], "differ in length .*rewards 59"),
        ("actions", lambda a: a.astype(str), "actions has dtype <U"),
        ("terminals", lambda a: a * 0.5, r"terminals\[6\] is 0.5, expected 0 or 1"),
        ("timeouts", lambda a: a * 2, r"timeouts\[18\] is 2, expected 0 or 1"),
        ("observations", lambda a: a[:0], r"shape \(0, 4\)"),
        ("observations", lambda a: [[0.0], [0.0, 1.0]], "ragged"),
    ],
)
def test_wrong_arrays_are_refused(recorded, key, wrong, said):
    recorded[key] = wrong(recorded[key])
    with pytest.raises(InputError, match=said):
        TransitionDataset.from_arrays(**recorded)


def test_other_wrong_arguments_are_refused(recorded):
    nexts = recorded["observations"][:, :3]
    with pytest.raises(InputError, match=r"next_observations has shape \(60, 3\)"):
        TransitionDataset.from_arrays(**recorded, next_observations=nexts)
    del recorded["timeouts"]
    with pytest.raises(InputError, match="max_episode_steps is 0"):
        TransitionDataset.from_arrays(**recorded, max_episode_steps=0)


def test_columns_are_taken_as_vectors(recorded):
    flat = TransitionDataset.from_arrays(**recorded)
    for key in ("rewards", "terminals", "timeouts"):
        recorded[key] = recorded[key].astype(np.float64)[:, None]
    columns = TransitionDataset.from_arrays(**recorded)
    assert columns.rewards.shape == (len(flat),)
    torch.testing.assert_close(columns.terminals, flat.terminals)


def test_the_callers_arrays_are_neither_shared_nor_changed(recorded):
    recorded["observations"].flags.writeable = False  # torch warns of sharing such an array
    before = {key: array.copy() for key, array in recorded.items()}
    dataset = TransitionDataset.from_arrays(**recorded)
    dataset.rewards += 1
    for key, array in recorded.items():
        np.testing.assert_array_equal(array, before[key])


def test_samples_are_rows_of_the_data_and_follow_the_generator(recorded):
    dataset = TransitionDataset.from_arrays(**recorded)
    batch = dataset.sample(500, torch.Generator().manual_seed(1))
    again = dataset.sample(500, torch.Generator().manual_seed(1))
    sizes = {"observations": (4,), "actions": (2,)}
    for field, column in batch._asdict().items():
        assert column.shape == (500, *sizes.get(field.split("_")[-1], ()))
    assert all(column.dtype == torch.float32 for column in batch)
    rows = (batch.observations[:, None] == dataset.observations).all(-1).int().argmax(1)
    assert set(rows.tolist()) == set(range(len(dataset)))  # every transition is drawn
    for column, repeated, whole in zip(batch, again, dataset.transitions, strict=True):
        assert torch.equal(column, repeated)
        assert torch.equal(column, whole[rows])


def test_statistics_are_right_for_constant_tiny_huge_and_offset_entries(recorded):
    units, offsets = np.array([1.0, 1e-12, 1e12, 10.0]), np.array([0.0, 0.0, 0.0, 1e4])
    observations = recorded["observations"].astype(np.float64) * units + offsets
    extra = np.stack([np.full(60, 3.0), np.zeros(60), np.full(60, 1e-9)], axis=1)  # constant
    recorded["observations"] = np.concatenate([observations, extra], axis=1)
    dataset = TransitionDataset.from_arrays(**recorded)
    kept = dataset.observations.numpy().astype(np.float64)
    np.testing.assert_allclose(dataset.observation_mean, kept.mean(0), rtol=1e-6)
    expected = [*kept.std(0)[:4], 3.0, 1.0, 1e-9]
    np.testing.assert_allclose(dataset.observation_std, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("unit", "offset", "told"),
    [(1.0, 1e8, True), (1e-48, 0.0, True), (1.0, 1e3, False), (1e-30, 0.0, False), (0, 1e8, False)],
)
def test_entries_that_float32_hardly_tells_apart_are_named(recorded, caplog, unit, offset, told):
    observations = recorded["observations"].astype(np.float64)
    observations[:, 2] = observations[:, 2] * unit + offset
    TransitionDataset.from_arrays(**recorded | {"observations": observations})
    assert ("observations[:, 2] lies between" in caplog.text) == told
    assert len(caplog.records) == told


def test_replace_and_to_keep_the_rest(recorded):
    dataset = TransitionDataset.from_arrays(**recorded)
    doubled = dataset.replace(rewards=2 * dataset.rewards).to("cpu")
    assert torch.equal(doubled.rewards, 2 * dataset.rewards)
    assert torch.equal(doubled.observations, dataset.observations)
    assert torch.equal(doubled.episode_ends, dataset.episode_ends)
    assert doubled.info == dataset.info
    with pytest.raises(InputError, match="rewards has shape"):
        dataset.replace(rewards=dataset.rewards[:, None])


def three_episodes() -> TransitionDataset:
    """Of 3, 2 and 4 transitions, that return 3, 0 and 1."""
    rewards = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0.0])  # the last step is no transition
    terminals = np.isin(np.arange(10), [2, 4, 8])
    row = np.arange(10.0)[:, None]
    return TransitionDataset.from_arrays(row, -row, rewards, terminals)


def test_good_episodes_are_imitated_more_often() -> None:
    weighted = three_episodes().weighted_by_return(0.5)
    generator = torch.Generator().manual_seed(0)
    index = weighted.draw_index(200_000, generator)
    imitated = weighted.draw_imitated(index, generator)
    weights = np.repeat(np.exp(np.array([3, 0, 1]) / 3 / 0.5), [3, 2, 4])
    for drawn, expected in ((index, np.ones(9)), (imitated, weights)):
        found = torch.bincount(drawn, minlength=9) / len(drawn)
        share = torch.from_numpy(expected / expected.sum()).float()
        torch.testing.assert_close(found, share, atol=4e-3, rtol=0)


def test_another_temperature_gives_the_weights_it_would_have_given() -> None:
    data = three_episodes()
    again = data.weighted_by_return(0.5).at_return_temperature(0.05)
    expected = data.weighted_by_return(0.05)
    assert again.weights is not None
    assert expected.weights is not None
    torch.testing.assert_close(again.weights.shares, expected.weights.shares)
    returns = torch.tensor([3.0, 40.0])
    torch.testing.assert_close(
        again.weights.exponents(returns), expected.weights.exponents(returns)
    )
    assert data.at_return_temperature(0.05).weights is None


def test_a_batch_has_what_is_imitated_beside_the_rest() -> None:
    weighted = three_episodes().weighted_by_return(0.01)  # the first alone
    batch = weighted.sample(200)
    assert set(batch.observations[:, 0].tolist()) == set(range(9))
    assert set(batch.imitated_observations[:, 0].tolist()) == {0, 1, 2}
    torch.testing.assert_close(batch.imitated_actions, -batch.imitated_observations)
    alike = three_episodes().sample(200)
    assert alike.imitated_observations is alike.observations


def test_weights_outlive_what_a_dataset_becomes() -> None:
    weighted = three_episodes().weighted_by_return(0.01)  # the first alone
    for one in (
        weighted.to("cpu"),
        weighted.replace(rewards=weighted.rewards * 2),
        n_step(weighted, 2, 0.9),
    ):
        assert set(one.sample(100).imitated_observations[:, 0].tolist()) == {0, 1, 2}


def test_episodes_of_one_return_are_imitated_alike() -> None:
    data = three_episodes()
    alike = data.replace(rewards=torch.zeros(9)).weighted_by_return(0.1)
    assert alike.weights is not None
    torch.testing.assert_close(alike.weights.shares, torch.arange(1, 10, dtype=torch.float64) / 9)


def episodes_of(returns: list[float]) -> TransitionDataset:
    """Of two transitions each, with these returns."""
    rewards = np.repeat(np.array(returns) / 2, 2)
    row, terminals = np.arange(len(rewards), dtype=float)[:, None], np.arange(len(rewards)) % 2 == 1
    return TransitionDataset.from_arrays(row, row, rewards, terminals)


@pytest.mark.parametrize("absurd", [1e9, -1e9, 1e30])
@pytest.mark.parametrize("count", [12, 400])
def test_one_absurd_return_takes_over_no_weights(absurd: float, count: int, caplog: Any) -> None:
    returns = np.linspace(10.0, 20.0, count).tolist()
    usual = episodes_of(returns).weighted_by_return(0.1).weights
    assert caplog.text == ""
    spoilt = episodes_of([*returns, absurd]).weighted_by_return(0.1).weights
    assert usual is not None
    assert spoilt is not None
    nearest = 20.0 if absurd > 0 else 10.0
    assert (spoilt.worst, spoilt.best) == (usual.worst, usual.best) == (10.0, 20.0)
    expected = np.exp(np.repeat([*returns, nearest], 2) / 10 / 0.1)
    found = spoilt.shares.diff(prepend=torch.zeros(1, dtype=torch.float64))
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5)
    assert f"1 of {count + 1} episodes return" in caplog.text


@pytest.mark.parametrize(
    "returns",
    [
        [0.0] * 99 + [1.0],  # one success: all others alike
        [*range(99), 1000.0],  # the best by far, but by less than ten times the range
        [1.0, 1.1, 1.2, 1.3, 50.0],  # five demonstrations
    ],
)
def test_rare_good_episodes_are_not_absurd(returns: list[float], caplog: Any) -> None:
    weights = episodes_of(returns).weighted_by_return(0.1).weights
    assert weights is not None
    assert (weights.worst, weights.best) == pytest.approx((min(returns), max(returns)))
    assert caplog.text == ""
