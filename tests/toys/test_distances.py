"""Distances between sets of points, against closed forms and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from cmpolicy.errors import InputError
from cmpolicy.toys.distances import (
    compare,
    kl_histogram,
    mmd,
    sliced_wasserstein_2,
    std_ratio,
    wasserstein_1d,
    wasserstein_2,
)

SHIFT = np.array([3.0, 4.0])


@pytest.fixture
def line():
    return np.random.default_rng(0).normal(size=(3000, 1))


@pytest.fixture
def plane():
    return np.random.default_rng(1).normal(size=(400, 2))


def test_w1_of_a_shift_and_of_sorted_points(line):
    assert wasserstein_1d(line + 0.7, line) == pytest.approx(0.7)
    assert wasserstein_1d(line[:, 0], line) == 0
    other = np.random.default_rng(2).uniform(size=(3000, 1))
    expected = np.abs(np.sort(line[:, 0]) - np.sort(other[:, 0])).mean()
    assert wasserstein_1d(line, other) == pytest.approx(expected)


def test_w2_of_a_shift_and_of_two_pairs_by_hand(plane):
    assert wasserstein_2(plane + SHIFT, plane) == pytest.approx(5)
    assert wasserstein_2(plane, plane) == pytest.approx(0, abs=1e-6)
    p, q = np.array([[0.0, 0.0], [2.0, 1.0]]), np.array([[2.0, 0.0], [0.0, 1.0]])
    assert wasserstein_2(p, q) == pytest.approx(1.0)  # crossing costs 1 + 1, staying 4 + 4


def test_w2_cuts_large_sets_to_a_fixed_subset(plane):
    first = wasserstein_2(plane + 1, plane, max_points=50)
    assert first == wasserstein_2(plane + 1, plane, max_points=50)
    assert first == pytest.approx(np.sqrt(2), rel=0.2)
    assert wasserstein_2(plane[:300] + SHIFT, plane) == pytest.approx(5, rel=0.1)


def test_sliced_w2_of_a_shift(plane):
    """The mean over directions of (θ·shift)² is ‖shift‖²/2."""
    sliced = sliced_wasserstein_2(plane[:200] + SHIFT, plane[:200], projections=1000)
    assert sliced == pytest.approx(5 / np.sqrt(2), rel=0.05)
    assert sliced == sliced_wasserstein_2(plane[:200] + SHIFT, plane[:200], projections=1000)


def test_sliced_w2_of_unequal_counts():
    """Repeating every point changes nothing; (0, 6) against (1, 2, 3): by hand."""
    p, q = np.array([[0.0], [6.0]]), np.array([[1.0], [2.0], [3.0]])
    gaps = np.array([1.0, 1.0, 2.0, 4.0, 3.0, 3.0])  # at levels of sixths
    assert sliced_wasserstein_2(p, q) == pytest.approx(np.sqrt((gaps**2).mean()))
    repeated = sliced_wasserstein_2(np.repeat(p, 3, axis=0), np.repeat(q, 2, axis=0))
    assert repeated == pytest.approx(sliced_wasserstein_2(p, q))
    assert wasserstein_distance(p[:, 0], q[:, 0]) == pytest.approx(gaps.mean())


def test_kl_by_hand(line, plane):
    """Two bins, half a count each: truth (2.5, 2.5)/5 and samples (1.5, 3.5)/5."""
    truth, samples = np.array([0.0, 0.1, 0.9, 1.0]), np.array([0.2, 0.6, 0.7, 0.8])
    p, q = np.array([0.5, 0.5]), np.array([0.3, 0.7])
    expected, reverse = np.sum(p * np.log(p / q)), np.sum(q * np.log(q / p))
    assert kl_histogram(samples, truth, bins=2) == pytest.approx(expected)
    assert kl_histogram(samples, truth, bins=2, reverse=True) == pytest.approx(reverse)
    assert kl_histogram(line, line) == kl_histogram(plane, plane, reverse=True) == 0


def test_kl_counts_samples_beyond_the_truth():
    truth = np.random.default_rng(0).uniform(-1, 1, size=5000)
    drifted = truth.copy()
    drifted[:2000] = 50.0
    assert kl_histogram(drifted, truth, reverse=True) > 0.5
    assert kl_histogram(drifted, truth) > 0.3


def test_std_ratio(line, plane):
    assert std_ratio(1.7 * line + 5, line) == pytest.approx(1.7)
    stretched = np.sqrt((9 * plane[:, 0].var() + plane[:, 1].var()) / plane.var(0).sum())
    assert std_ratio(plane * [3.0, 1.0], plane) == pytest.approx(stretched)


def test_mmd_against_loops(plane):
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(12, 2)) + 1, rng.normal(size=(9, 2))
    pairs = [np.sum((a - b) ** 2) for i, a in enumerate(q) for b in q[:i]]
    k = lambda a, b: np.exp(-0.5 * np.sum((a - b) ** 2) / np.median(pairs))  # noqa: E731
    within_p = np.mean([k(a, b) for i, a in enumerate(p) for j, b in enumerate(p) if i != j])
    within_q = np.mean([k(a, b) for i, a in enumerate(q) for j, b in enumerate(q) if i != j])
    across = np.mean([k(a, b) for a in p for b in q])
    assert mmd(p, q) == pytest.approx(np.sqrt(within_p + within_q - 2 * across))
    assert mmd(plane, plane) == 0
    with pytest.raises(InputError, match="are equal"):
        mmd(plane, np.append(np.zeros((300, 2)), plane[:20], axis=0))


def test_compare_names_what_fits_the_dimension(line, plane):
    two = ["w2", "sliced_w2", "mmd", "kl", "kl_reverse", "std_ratio"]
    assert list(compare(line + 0.1, line)) == ["w1", "kl", "kl_reverse", "std_ratio"]
    assert list(compare(plane + 0.1, plane)) == two
    cube = np.random.default_rng(0).normal(size=(100, 3))
    assert list(compare(cube, cube)) == ["w2", "sliced_w2", "mmd", "std_ratio"]
    assert all(type(value) is float for value in compare(plane + 0.1, plane).values())


@pytest.mark.parametrize(
    ("call", "samples", "truth", "words"),
    [
        (compare, [0.0, np.nan], [0.0, 1.0], r"samples\[1\] holds NaN"),
        (compare, [0.0, 1.0], [np.inf, 1.0], r"truth\[0\] holds NaN or inf \(as 1 of 2"),
        (compare, np.zeros((3, 2, 1)), [0.0, 1.0], r"expected \(n, d\)"),
        (compare, [1.0], [0.0, 1.0], "n at least 2"),
        (compare, np.ones((3, 2)), [0.0, 1.0], "2 coordinates, the truth 1"),
        (compare, [0.0, 1.0], [1.0, 1.0], "never changes"),
        (compare, ["a", "b"], [0.0, 1.0], "not an array of numbers"),
        (wasserstein_1d, np.eye(2), np.eye(2), "2 coordinates, expected 1 for"),
        (kl_histogram, np.eye(3), np.eye(3), "expected 1 or 2"),
        (lambda p, q: kl_histogram(p, q, bins=0), [0.0, 1.0], [0.0, 1.0], "bins is 0"),
    ],
)
def test_wrong_input_is_refused(call, samples, truth, words):
    with pytest.raises(InputError, match=words):
        call(samples, truth)
