"""How near samples are to the truth: distances between two sets of points, float64 NumPy.

W1 is SciPy's, W2 is POT's; every figure is in the units of the data, or has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from cmpolicy.array_types import DoubleArray
from cmpolicy.errors import InputError

BINS_1D = 200
BINS_2D = 40  # a side: 1,600 cells
MAX_POINTS = 2_000  # of exact transport and MMD, whose cost is quadratic or worse
PROJECTIONS = 50


def wasserstein_1d(samples: Any, truth: Any) -> float:
    """1-Wasserstein distance ∫|F − G| between samples (n, 1) and (m, 1), or (n,) and (m,)."""
    p, q = _checked(samples, truth)
    _expect_dims(p, 1, 1)
    return float(wasserstein_distance(p[:, 0], q[:, 0]))


def kl_histogram(
    samples: Any, truth: Any, *, bins: int | None = None, reverse: bool = False
) -> float:
    """KL(truth ‖ samples) of two histograms, in nats; `reverse` gives KL(samples ‖ truth).

    The first asks whether all of the truth is covered, and is what maximum likelihood minimises;
    the second whether samples lie where there is no truth, as between two modes. The bins, 200
    in one dimension and 40 × 40 in two, cover the range of the truth; samples beyond it count in
    the outermost bins, so that drifting away costs. Half a count is added to every bin of both
    (Krichevsky & Trofimov 1981), so that an empty bin leaves the figure finite and two equal
    histograms still give 0. Two independent sets of 20,000 give about 0.01 in one dimension.

    Args:
        samples: (n, d) or (n,), d ≤ 2.
        truth: (m, d) or (m,).
        bins: a side.
    """
    p, q = _checked(samples, truth)
    dim = _expect_dims(p, 1, 2)
    if bins is None:
        bins = BINS_1D if dim == 1 else BINS_2D
    if bins < 1:
        raise InputError(f"bins is {bins}, expected at least 1")
    low, high = q.min(0), q.max(0)
    edges = [np.linspace(a, b, bins + 1) for a, b in zip(low, high, strict=True)]
    of_samples, of_truth = (
        np.histogramdd(points.clip(low, high), edges)[0].ravel() + 0.5 for points in (p, q)
    )
    of_samples, of_truth = of_samples / of_samples.sum(), of_truth / of_truth.sum()
    a, b = (of_samples, of_truth) if reverse else (of_truth, of_samples)
    return float(np.sum(a * np.log(a / b)))


def std_ratio(samples: Any, truth: Any) -> float:
    """√(total variance of the samples / that of the truth): above 1 where samples drift outward."""
    p, q = _checked(samples, truth)
    return float(np.sqrt(p.var(0).sum() / q.var(0).sum()))


def wasserstein_2(samples: Any, truth: Any, *, max_points: int = MAX_POINTS) -> float:
    """2-Wasserstein distance by exact optimal transport (POT's `emd2`) between (n, d) and (m, d).

    Of more than `max_points` rows a fixed random subset is taken. Two independent sets of 2,000
    points are themselves apart, by 0.1 to 0.3 on the toys: compare with such a pair.
    """
    import ot  # type: ignore[import-untyped, unused-ignore]  # slow to import

    p, q = (_subset(points, max_points) for points in _checked(samples, truth))
    return float(np.sqrt(max(0.0, float(ot.emd2([], [], ot.dist(p, q), numItermax=1_000_000)))))


def sliced_wasserstein_2(samples: Any, truth: Any, *, projections: int = PROJECTIONS) -> float:
    """Mean square over random directions of the 2-Wasserstein distance of the projections, rooted.

    POT's, with fixed directions, on all rows of (n, d) and (m, d): smaller than `wasserstein_2`
    by construction, and less noisy.
    """
    import ot  # type: ignore[import-untyped, unused-ignore]

    p, q = _checked(samples, truth)
    return float(ot.sliced_wasserstein_distance(p, q, n_projections=projections, seed=0))


def mmd(samples: Any, truth: Any, *, max_points: int = MAX_POINTS) -> float:
    """Maximum mean discrepancy with a Gaussian kernel (Gretton et al. 2012, eq. 3), no unit.

    The root of the unbiased estimate of MMD², or 0 where that is negative, between (n, d) and
    (m, d). The bandwidth is the median distance within the truth. Subsets as in `wasserstein_2`.
    """
    p, q = (_subset(points, max_points) for points in _checked(samples, truth))
    within_q = cdist(q, q, "sqeuclidean")
    bandwidth = np.median(within_q[np.triu_indices(len(q), 1)])
    if bandwidth == 0:
        raise InputError("more than half of the true samples are equal, expected a spread")
    k_pp, k_qq, k_pq = (
        np.exp(-0.5 * d / bandwidth) for d in (cdist(p, p, "sqeuclidean"), within_q, _cross(p, q))
    )
    n, m = len(p), len(q)
    squared = (k_pp.sum() - n) / (n * (n - 1)) + (k_qq.sum() - m) / (m * (m - 1)) - 2 * k_pq.mean()
    return float(np.sqrt(max(0.0, squared)))


def compare(samples: Any, truth: Any) -> dict[str, float]:
    """Every distance that fits the dimension, between samples (n, d) and true samples (m, d).

    In one dimension: w1, kl, kl_reverse, std_ratio. In two: w2, sliced_w2, mmd, kl, kl_reverse,
    std_ratio; in more, the same without the histograms.

    Raises:
        InputError: another shape, NaN or inf, fewer than two rows, or a truth without spread.
    """
    p, q = _checked(samples, truth)
    scores: dict[str, float] = {}
    if p.shape[1] == 1:
        scores["w1"] = wasserstein_1d(p, q)
    else:
        scores["w2"] = wasserstein_2(p, q)
        scores["sliced_w2"] = sliced_wasserstein_2(p, q)
        scores["mmd"] = mmd(p, q)
    if p.shape[1] <= 2:
        scores["kl"] = kl_histogram(p, q)
        scores["kl_reverse"] = kl_histogram(p, q, reverse=True)
    scores["std_ratio"] = std_ratio(p, q)
    return scores


def _cross(p: DoubleArray, q: DoubleArray) -> DoubleArray:
    return np.asarray(cdist(p, q, "sqeuclidean"), dtype=np.float64)


def _subset(points: DoubleArray, max_points: int) -> DoubleArray:
    if len(points) <= max_points:
        return points
    return points[np.random.default_rng(0).choice(len(points), max_points, replace=False)]


def _checked(samples: Any, truth: Any) -> tuple[DoubleArray, DoubleArray]:
    p, q = _points("samples", samples), _points("truth", truth)
    if p.shape[1] != q.shape[1]:
        raise InputError(f"samples have {p.shape[1]} coordinates, the truth {q.shape[1]}")
    if not q.var(0).all():
        raise InputError("a coordinate of the true samples never changes, expected a spread")
    return p, q


def _points(name: str, values: Any) -> DoubleArray:
    """`values` as (n, d) float64; (n,) is taken as (n, 1)."""
    try:
        points = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is not an array of numbers, expected (n, d)") from None
    if points.ndim == 1:
        points = points[:, None]
    if points.ndim != 2 or len(points) < 2 or points.shape[1] < 1:
        raise InputError(f"{name} has shape {points.shape}, expected (n, d) with n at least 2")
    bad = np.asarray(~np.isfinite(points).all(1))
    if bad.any():
        raise InputError(
            f"{name}[{int(np.argmax(bad))}] holds NaN or inf (as {int(bad.sum())} of {len(bad)} "
            "rows do), expected finite numbers"
        )
    return points


def _expect_dims(points: DoubleArray, least: int, most: int) -> int:
    dim = int(points.shape[1])
    if not least <= dim <= most:
        dims = str(least) if least == most else f"{least} or {most}"
        raise InputError(f"samples have {dim} coordinates, expected {dims} for this distance")
    return dim
