"""Image metrics, against closed forms and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from cmpolicy.errors import InputError
from cmpolicy.images.extractors import Extractor
from cmpolicy.images.metrics import (
    Statistics,
    frechet_distance,
    kernel_distance,
    precision_recall,
    read_reference,
    score_features,
    statistics,
    write_reference,
)

PIXELS = Extractor("classifier", "0" * 16, lambda x: x.flatten(1).float(), torch.device("cpu"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_frechet_of_gaussians_that_commute(rng):
    """Diagonal covariances: Σ (m₁ − m₂)² + (s₁ − s₂)²."""
    m1, m2 = rng.normal(size=(2, 5))
    s1, s2 = rng.uniform(0.1, 2, size=(2, 5))
    p, q = Statistics(m1, np.diag(s1**2)), Statistics(m2, np.diag(s2**2))
    assert frechet_distance(p, q) == pytest.approx(((m1 - m2) ** 2 + (s1 - s2) ** 2).sum())


def test_frechet_is_symmetric_and_that_of_the_matrix_root(rng):
    factors = rng.normal(size=(2, 8, 8))
    p, q = (Statistics(rng.normal(size=8), a @ a.T + 0.1 * np.eye(8)) for a in factors)
    root = np.trace(sqrtm(p.sigma @ q.sigma)).real
    expected = ((p.mu - q.mu) ** 2).sum() + np.trace(p.sigma + q.sigma) - 2 * root
    assert frechet_distance(p, q) == pytest.approx(expected)
    assert frechet_distance(q, p) == pytest.approx(expected)


def test_frechet_with_fewer_images_than_features(rng):
    """Singular covariances: a set is at 0 from itself, and a shift costs its square."""
    features = rng.normal(size=(20, 64))
    p = statistics(features)
    assert frechet_distance(p, p) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(p, statistics(features + 0.5)) == pytest.approx(16, abs=1e-5)


def test_statistics_against_loops(rng):
    f = rng.normal(size=(7, 3))
    s = statistics(f.astype(np.float32))
    mean = sum(f) / 7
    np.testing.assert_allclose(s.mu, mean, rtol=1e-6)
    np.testing.assert_allclose(s.sigma, sum(np.outer(x - mean, x - mean) for x in f) / 6, rtol=1e-5)
    assert (s.count, s.mu.dtype, s.sigma.dtype) == (7, np.float64, np.float64)


def kid_by_loops(p, q):
    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3

    def within(f):
        return np.mean([kernel(a, b) for i, a in enumerate(f) for j, b in enumerate(f) if i != j])

    return within(p) + within(q) - 2 * np.mean([kernel(a, b) for a in p for b in q])


def test_kid_against_loops(rng):
    p, q = rng.normal(0.5, 1, size=(14, 5)), rng.normal(size=(14, 5))
    mean, std = kernel_distance(p, q)
    assert mean == pytest.approx(kid_by_loops(p, q), rel=1e-12)
    assert std == 0
    generator = torch.Generator().manual_seed(7)
    of_q, of_p = (torch.randperm(14, generator=generator)[:5].numpy() for _ in range(2))
    subset = kernel_distance(p, q, subsets=1, subset_size=5, seed=7)
    assert subset == (pytest.approx(kid_by_loops(p[of_p], q[of_q])), 0)


def test_kid_over_subsets_is_near_that_of_everything(rng):
    before = torch.get_rng_state()
    p, q = rng.normal(0.5, 1, size=(400, 5)), rng.normal(size=(500, 5))
    mean, std = kernel_distance(p, q, subsets=60, subset_size=100)
    assert mean == pytest.approx(kernel_distance(p, q[:400])[0], abs=4 * std / 60**0.5 + 0.05)
    assert std > 0
    assert (mean, std) == kernel_distance(p, q, subsets=60, subset_size=100)
    assert (mean, std) != kernel_distance(p, q, subsets=60, subset_size=100, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def covered_by_loops(points, manifold, k):
    radii = [sorted(np.linalg.norm(m - manifold, axis=1))[k] for m in manifold]
    pairs = list(zip(manifold, radii, strict=True))
    return np.mean([any(np.linalg.norm(x - m) <= r for m, r in pairs) for x in points])


def test_precision_and_recall_against_loops(rng, monkeypatch):
    samples, truth = rng.normal(0.8, 0.7, size=(40, 3)), rng.normal(size=(50, 3))
    precision, recall = precision_recall(samples, truth)
    assert precision == pytest.approx(covered_by_loops(samples, truth, 3))
    assert recall == pytest.approx(covered_by_loops(truth, samples, 3))
    assert 0 < recall < precision <= 1
    monkeypatch.setattr("cmpolicy.images.metrics.CHUNK", 130)  # two or three rows at a time
    assert precision_recall(samples, truth) == (precision, recall)


def test_all_scores_of_images():
    generator = torch.Generator().manual_seed(0)
    dark, light = (
        PIXELS(torch.randint(low, low + 100, (60, 1, 2, 2), generator=generator).byte())
        for low in (0, 100)
    )
    scores = score_features(dark, light, PIXELS)
    assert scores.distance == "Fréchet distance (classifier)"
    assert scores.frechet == pytest.approx(40_000, rel=0.1)
    assert (scores.samples, scores.references) == (60, 60)
    assert scores.kid > 0
    assert (scores.precision, scores.recall) == (0, 0)
    assert str(scores).endswith("(60 samples against 60 images)")
    again = score_features(dark, statistics(light), PIXELS)
    assert again.frechet == scores.frechet
    assert again.kid is again.precision is None


def test_precision_is_measured_with_equal_counts(rng):
    """Ten times the true images must not make every sample precise."""
    truth, samples = rng.normal(size=(600, 2)), 2 * rng.normal(size=(60, 2))
    scores = score_features(samples, truth, PIXELS)
    spread = np.linspace(0, 599, 60).astype(int)
    assert scores.precision == precision_recall(samples, truth[spread])[0]
    assert scores.precision < precision_recall(samples, truth)[0]
    assert scores.references == 600


def test_reference_files_are_openais(tmp_path, rng):
    s = statistics(rng.normal(size=(10, 4)))
    write_reference(tmp_path / "ours.npz", s)
    with np.load(tmp_path / "ours.npz") as file:
        np.testing.assert_array_equal(file["mu"], s.mu)
        np.testing.assert_array_equal(file["sigma"], s.sigma)
    assert read_reference(tmp_path / "ours.npz").count == 10
    np.savez(tmp_path / "theirs.npz", mu=s.mu, sigma=s.sigma)
    theirs = read_reference(tmp_path / "theirs.npz")
    assert theirs.count == 0
    assert frechet_distance(theirs, s) == pytest.approx(0, abs=1e-9)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["ours.npz", "theirs.npz"]


def test_wrong_reference_files_are_refused(tmp_path):
    np.savez(tmp_path / "samples.npz", arr_0=np.zeros(3))
    np.savez(tmp_path / "shape.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    np.savez(tmp_path / "pickled.npz", mu=np.array([{}], dtype=object), sigma=np.zeros((1, 1)))
    (tmp_path / "text.npz").write_text("mu and sigma")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "shape.npz").read_bytes()[:100])
    np.savez(tmp_path / "nan.npz", mu=np.full(1, np.nan), sigma=np.zeros((1, 1)))
    np.savez(tmp_path / "words.npz", mu=np.array(["a"]), sigma=np.zeros((1, 1)))
    said = dict.fromkeys(("samples", "words"), "not a reference file")
    said |= dict.fromkeys(("text", "cut"), r"is not an \.npz file, or cut short")
    said |= {"pickled": "holds pickled objects", "nan": "NaN or inf"}
    said |= {"shape": r"mu \(3,\) and sigma \(2, 2\)", "missing": "there is no file"}
    for name, words in said.items():
        with pytest.raises(InputError, match=words):
            read_reference(tmp_path / f"{name}.npz")


@pytest.mark.parametrize(
    ("samples", "truth", "words"),
    [
        (np.zeros((3, 2)), np.zeros((3, 4)), "2 features, the truth 4"),
        (np.zeros((1, 2)), np.zeros((3, 2)), "at least 2"),
        (np.zeros((5, 2)), np.full((5, 2), np.nan), "NaN or inf"),
        (np.zeros(5), np.zeros((5, 1)), r"expected features \(N, D\)"),
    ],
)
def test_wrong_features_are_refused(samples, truth, words):
    for measure in (kernel_distance, precision_recall):
        with pytest.raises(InputError, match=words):
            measure(samples, truth)


def test_too_few_images_for_neighbours_or_another_extractor(rng):
    with pytest.raises(InputError, match="3 neighbours among 3 images"):
        precision_recall(rng.normal(size=(3, 2)), rng.normal(size=(9, 2)))
    p, q = statistics(rng.normal(size=(9, 2))), statistics(rng.normal(size=(9, 3)))
    with pytest.raises(InputError, match="two extractors"):
        frechet_distance(p, q)
