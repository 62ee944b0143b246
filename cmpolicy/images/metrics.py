"""How near generated images are to real ones: Fréchet distance, KID, precision and recall.

All from features of a named extractor, in float64.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from cmpolicy.array_types import DoubleArray
from cmpolicy.atomic_file import write_atomically
from cmpolicy.errors import InputError
from cmpolicy.images.extractors import Extractor

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000  # Bińkowski et al. 2018 have these
NEIGHBOURS = 3  # Kynkäänniemi et al. 2019, §3


@dataclass(frozen=True)
class Statistics:
    """The mean (D,) and the covariance (D, D) of features, and of how many images.

    Attributes:
        count: 0 where a file does not say.
    """

    mu: DoubleArray
    sigma: DoubleArray
    count: int = 0


def statistics(features: Any) -> Statistics:
    """Of features (N, D), N ≥ 2; the covariance is divided by N − 1."""
    f = checked("features", features)
    return Statistics(f.mean(0), np.atleast_2d(np.cov(f, rowvar=False)), len(f))


def frechet_distance(p: Statistics, q: Statistics) -> float:
    """‖μ_p − μ_q‖² + tr(Σ_p + Σ_q − 2 (Σ_p Σ_q)^½): Heusel et al. 2017, eq. 6.

    The trace of the root is that of (Aᵀ Σ_q A)^½ with Σ_p = A Aᵀ, which is symmetric: its
    eigenvalues are found exactly, and stay at 0 where there are fewer images than features.

    Raises:
        InputError: if the two are of different numbers of features.
    """
    if p.mu.shape != q.mu.shape:
        raise InputError(
            f"statistics of {len(p.mu)} and of {len(q.mu)} features: of two extractors"
        )
    values, vectors = scipy.linalg.eigh(p.sigma)
    root = vectors * np.sqrt(values.clip(min=0))
    shared = scipy.linalg.eigvalsh(root.T @ q.sigma @ root).clip(min=0)
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
    """KID, the unbiased MMD² with the kernel (xᵀy/D + 1)³: Bińkowski et al. 2018; torchmetrics'.

    Args:
        samples, truth: features (n, D) and (m, D).
        subsets, subset_size: averaged over so many draws of so many rows, or of as many as there
            are; a single draw where that is all rows of both.

    Returns:
        The mean over subsets, which can fall below 0, and their standard deviation.
    """
    from torchmetrics.image.kid import KernelInceptionDistance  # slow to import

    p, q = pair(samples, truth)
    size = min(subset_size, len(p), len(q))
    everything = size == len(p) == len(q)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
        torch.manual_seed(seed)
        kid = KernelInceptionDistance(
            feature=torch.nn.Identity(), subsets=1 if everything else subsets, subset_size=size
        )
        kid.update(torch.from_numpy(q), real=True)
        kid.update(torch.from_numpy(p), real=False)
        mean, std = kid.compute()
    return float(mean), float(std)


def precision_recall(
    samples: Any, truth: Any, *, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Kynkäänniemi et al. 2019, eq. 1 and 2, from features (n, D) and (m, D).

    Precision is the fraction of samples that lie nearer to some true image than its k-th
    neighbour among the true ones; recall the same with the roles exchanged. Both fall with the
    number of rows, so compare only equal counts.
    """
    p, q = pair(samples, truth)
    if not 1 <= neighbours < min(len(p), len(q)):
        raise InputError(
            f"{neighbours} neighbours among {min(len(p), len(q))} images, expected fewer than these"
        )
    return covered(p, q, neighbours), covered(q, p, neighbours)


def covered(points: DoubleArray, manifold: DoubleArray, neighbours: int) -> float:
    """The fraction of `points` within a ball around one of `manifold`, as large as its k-th gap."""
    from sklearn.metrics import pairwise_distances_chunked  # slow to import
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(manifold)
    radii = nearest.kneighbors()[0][:, -1]  # without arguments a point is no neighbour of itself
    parts = pairwise_distances_chunked(
        points, manifold, reduce_func=lambda distances, _: (distances <= radii).any(1)
    )
    return float(np.concatenate(list(parts)).mean())


@dataclass(frozen=True)
class ImageScores:
    """Everything measured of a set of images.

    Attributes:
        extractor, weights: of the features.
        distance: what the Fréchet distance may be called, "FID" only with Inception.
        frechet: it.
        samples, references: how many images each side had; 0 where a file does not say.
        kid, kid_std: mean and standard deviation over subsets; None against a reference file.
        precision, recall: None against a reference file.
    """

    extractor: str
    weights: str
    distance: str
    frechet: float
    samples: int
    references: int
    kid: float | None = None
    kid_std: float | None = None
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
    """All figures from features (n, D) of samples and either features (m, D) or Statistics."""
    fake = checked("samples", samples)
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
    # both fall with the number of images: as many true ones as there are samples, spread evenly
    spread = np.linspace(0, len(truth) - 1, min(len(truth), len(fake))).astype(int)
    precision, recall = precision_recall(fake, np.asarray(truth)[spread])
    return replace(scores, kid=kid, kid_std=kid_std, precision=precision, recall=recall)


def score_images(
    samples: Tensor, truth: Tensor | Statistics, extractor: Extractor, *, progress: bool = False
) -> ImageScores:
    """All figures of images (n, C, H, W) uint8 against true ones, or statistics of these.

    Raises:
        InputError: for another shape or type, or fewer than two images.
    """
    real = truth if isinstance(truth, Statistics) else extractor(truth, progress=progress)
    return score_features(extractor(samples, progress=progress), real, extractor)


def read_reference(path: str | Path) -> Statistics:
    """A reference file in OpenAI's convention: an `.npz` with `mu` and `sigma`.

    Raises:
        InputError: if it is not one.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mu, sigma = (np.asarray(file[key], dtype=np.float64) for key in ("mu", "sigma"))
            count = int(file["count"]) if "count" in file else 0
    except FileNotFoundError:
        raise InputError(f"there is no file {path}, expected statistics of images") from None
    except (KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} is not a reference file ({reason}), expected an .npz with mu and sigma"
        ) from None
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise InputError(
            f"{path} has mu {mu.shape} and sigma {sigma.shape}, expected (D,) and (D, D)"
        )
    return Statistics(mu, sigma, count)


def write_reference(path: str | Path, reference: Statistics) -> None:
    """Write `mu`, `sigma` and the number of images; the file appears when it is whole."""
    buffer = io.BytesIO()
    np.savez(buffer, mu=reference.mu, sigma=reference.sigma, count=np.int64(reference.count))
    write_atomically(Path(path), buffer.getvalue())


def pair(samples: Any, truth: Any) -> tuple[DoubleArray, DoubleArray]:
    """Both sets of features, of the same extractor."""
    p, q = checked("samples", samples), checked("truth", truth)
    if p.shape[1] != q.shape[1]:
        raise InputError(f"samples have {p.shape[1]} features, the truth {q.shape[1]}")
    return p, q


def checked(name: str, features: Any) -> DoubleArray:
    """Features as (N, D) float64, N ≥ 2, finite."""
    f = np.asarray(features, dtype=np.float64)
    if f.ndim != 2 or len(f) < 2:
        raise InputError(f"{name} have shape {f.shape}, expected features (N, D) of at least 2")
    if not np.isfinite(f).all():
        raise InputError(f"{name} hold NaN or inf, expected finite features")
    return f
