"""Compare generated with real images: Fréchet distance, KID, precision and recall.

All are computed in float64 from the features of a named extractor.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmpolicy.array_types import DoubleArray
from cmpolicy.atomic_file import write_atomically
from cmpolicy.errors import InputError, one_line
from cmpolicy.images.extractors import Extractor
from cmpolicy.images.npz import read_npz_arrays

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000  # those of Bińkowski et al. 2018
NEIGHBOURS = 3  # Kynkäänniemi et al. 2019, §3
CHUNK = 1 << 24  # distances held in memory at once, 128 MiB


@dataclass(frozen=True)
class Statistics:
    """Mean (D,) and covariance (D, D) of the features of `count` images; 0 if unknown."""

    mu: DoubleArray
    sigma: DoubleArray
    count: int = 0


def statistics(features: Any) -> Statistics:
    """Compute the statistics of features (N, D), N ≥ 2, with the covariance divided by N − 1."""
    f = _checked("features", features)
    return Statistics(f.mean(0), np.atleast_2d(np.cov(f, rowvar=False)), len(f))


def frechet_distance(p: Statistics, q: Statistics) -> float:
    """Compute ‖μ_p − μ_q‖² + tr(Σ_p + Σ_q − 2 (Σ_p Σ_q)^½): Heusel et al. 2017, eq. 6.

    The trace of the root is that of (Aᵀ Σ_q A)^½ with Σ_p = A Aᵀ, a symmetric matrix: its
    eigenvalues are exact, and clipped at 0 if there are fewer images than features.

    Raises:
        InputError: for different numbers of features.
    """
    if p.mu.shape != q.mu.shape:
        raise InputError(
            f"the statistics have {len(p.mu)} and {len(q.mu)} features, so they come from two "
            "extractors; use the same one for both"
        )
    values, vectors = np.linalg.eigh(p.sigma)
    root = vectors * np.sqrt(values.clip(min=0))
    shared = np.linalg.eigvalsh(root.T @ q.sigma @ root).clip(min=0)
    distance = ((p.mu - q.mu) ** 2).sum() + np.trace(p.sigma) + np.trace(q.sigma)
    return max(0.0, float(distance - 2 * np.sqrt(shared).sum()))


def kernel_distance(
    samples: Any,
    truth: Any,
    *,
    subsets: int = KID_SUBSETS,
    subset_size: int = KID_SUBSET_SIZE,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute the KID, an unbiased MMD² with kernel (xᵀy/D + 1)³: Bińkowski et al. 2018.

    Args:
        samples, truth: features (n, D) and (m, D).
        subsets, subset_size: number of random subsets, and rows in each, at most n and m. If a
            subset holds all rows of both, it is the only one.

    Returns:
        Mean over subsets, which can be negative, and their standard deviation.
    """
    p, q = _pair(samples, truth)
    size = min(subset_size, len(p), len(q))
    if size == len(p) == len(q):
        return _unbiased_mmd(p, q), 0.0
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        of_q, of_p = (torch.randperm(len(f), generator=generator)[:size].numpy() for f in (q, p))
        values.append(_unbiased_mmd(p[of_p], q[of_q]))
    return float(np.mean(values)), float(np.std(values))


def _unbiased_mmd(p: DoubleArray, q: DoubleArray) -> float:
    """Compute MMD² of p (n, D) and q (n, D): Gretton et al. 2012, eq. 3."""
    k_pp, k_qq, k_pq = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((p, p), (q, q), (p, q)))
    n = len(p)
    within = k_pp.sum() - k_pp.trace() + k_qq.sum() - k_qq.trace()
    return float(within / (n * (n - 1)) - 2 * k_pq.mean())


def precision_recall(
    samples: Any, truth: Any, *, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Compute precision and recall from features (n, D), (m, D): Kynkäänniemi et al. 2019, eq. 1.

    Precision is the fraction of samples within the ball around some true image that reaches to its
    k-th true neighbour; recall exchanges the roles. Both fall with the number of rows, so compare
    only equal counts.
    """
    p, q = _pair(samples, truth)
    if not 1 <= neighbours < min(len(p), len(q)):
        raise InputError(
            f"{neighbours} neighbours among {min(len(p), len(q))} images, expected fewer neighbours"
        )
    return _covered(p, q, neighbours), _covered(q, p, neighbours)


def _covered(points: DoubleArray, manifold: DoubleArray, neighbours: int) -> float:
    """Compute the fraction of `points` within the ball of any point of `manifold`."""
    x, m = torch.from_numpy(points), torch.from_numpy(manifold)
    rows = max(1, CHUNK // len(m))
    # The nearest of all is the point itself.
    near = [_distances(y, m).kthvalue(neighbours + 1).values for y in torch.split(m, rows)]
    radii = torch.cat(near)
    inside = [(_distances(y, m) <= radii).any(1) for y in torch.split(x, rows)]
    return float(torch.cat(inside).double().mean())


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist")


@dataclass(frozen=True)
class ImageScores:
    """All metrics of a set of images; KID, precision and recall are None with a reference file."""

    extractor: str
    weights: str  # hash of the extractor's weights
    distance: str  # name of the Fréchet distance; "FID" only with Inception
    frechet: float
    samples: int
    references: int  # number of true images; 0 if a reference file does not say
    kid: float | None = None
    kid_std: float | None = None  # over subsets
    precision: float | None = None
    recall: float | None = None

    def __str__(self) -> str:
        parts = [f"{self.distance} {self.frechet:.3f}"]
        if self.kid is not None:
            parts.append(f"KID {self.kid:.5f} ± {self.kid_std:.5f}")
        if self.precision is not None:
            parts.append(f"precision {self.precision:.3f}, recall {self.recall:.3f}")
        references = f"{self.references:,}" if self.references else "an unknown number of"
        return f"{', '.join(parts)} ({self.samples:,} samples against {references} images)"


def score_features(samples: Any, truth: Any, extractor: Extractor) -> ImageScores:
    """Compute all metrics from features (n, D) and either features (m, D) or `Statistics`."""
    fake = _checked("samples", samples)
    reference = truth if isinstance(truth, Statistics) else statistics(truth)
    scores = ImageScores(
        extractor.name,
        extractor.weights,
        extractor.distance,
        frechet_distance(statistics(fake), reference),
        len(fake),
        reference.count,
    )
    if isinstance(truth, Statistics):
        return scores
    kid, kid_std = kernel_distance(fake, truth)
    # As many true images as samples, evenly spaced, because both metrics fall with the counts.
    spread = np.linspace(0, len(truth) - 1, min(len(truth), len(fake))).astype(int)
    precision, recall = precision_recall(fake, np.asarray(truth)[spread])
    return replace(scores, kid=kid, kid_std=kid_std, precision=precision, recall=recall)


def read_reference(path: str | Path) -> Statistics:
    """Read statistics in OpenAI's format: an `.npz` with `mu` and `sigma`.

    Raises:
        InputError: for another file.
    """
    arrays, keys = read_npz_arrays(Path(path), ("mu", "sigma", "count"))
    try:
        mu, sigma = (np.asarray(arrays[key], dtype=np.float64) for key in ("mu", "sigma"))
        count = int(arrays["count"]) if "count" in arrays else 0
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not a reference file ({one_line(error)}), expected an .npz with mu and "
            f"sigma, numbers; it holds {', '.join(sorted(keys)) or 'nothing'}"
        ) from None
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise InputError(f"{path} holds NaN or inf, expected finite statistics")
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise InputError(
            f"{path} has mu {mu.shape} and sigma {sigma.shape}, expected (D,) and (D, D)"
        )
    return Statistics(mu, sigma, count)


def write_reference(path: str | Path, reference: Statistics) -> None:
    """Write `mu`, `sigma` and the number of images, atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, mu=reference.mu, sigma=reference.sigma, count=np.int64(reference.count))
    write_atomically(Path(path), buffer.getvalue())


def _pair(samples: Any, truth: Any) -> tuple[DoubleArray, DoubleArray]:
    p, q = _checked("samples", samples), _checked("truth", truth)
    if p.shape[1] != q.shape[1]:
        raise InputError(f"samples have {p.shape[1]} features, the truth {q.shape[1]}")
    return p, q


def _checked(name: str, features: Any) -> DoubleArray:
    """Validate features and cast them to (N, D) float64."""
    f = np.asarray(features, dtype=np.float64)
    if f.ndim != 2 or len(f) < 2:
        raise InputError(f"{name} have shape {f.shape}, expected features (N, D) of at least 2")
    if not np.isfinite(f).all():
        raise InputError(f"{name} hold NaN or inf, expected finite features")
    return f
