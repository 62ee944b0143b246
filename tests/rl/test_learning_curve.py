"""A picture that shows something."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from cmpolicy.rl.learning_curve import draw_learning_curve


def draw(
    path: Path, scores: list[float], errors: list[float], **kwargs: float | None
) -> np.ndarray:
    steps = [1000 * (i + 1) for i in range(len(scores))]
    draw_learning_curve(path, steps, scores, errors, title="ac", ylabel="score", **kwargs)
    return np.asarray(matplotlib.image.imread(path))


def blue(picture: np.ndarray) -> int:
    """The number of pixels in the colour of the policy's curve."""
    return int((np.abs(picture[..., :3] - [0.122, 0.467, 0.706]).max(-1) < 0.02).sum())


def test_the_picture_shows_curve_band_and_data(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    flat = draw(path, [10.0, 50.0, 60.0], [0.0, 0.0, 0.0])
    assert path.read_bytes()[:4] == b"\x89PNG"
    height, width, _ = flat.shape
    assert height > 300
    assert width > 500
    assert blue(flat) > 300
    banded = draw(path, [10.0, 50.0, 60.0], [5.0, 5.0, 9.0])
    lined = draw(path, [10.0, 50.0, 60.0], [5.0, 5.0, 9.0], data_mean=30.0)
    assert (flat != banded).any(-1).mean() > 0.02
    assert (banded != lined).any(-1).sum() > 300
    marked = draw(path, [10.0, 50.0, 60.0], [5.0, 5.0, 9.0], online_from=2000)
    assert (banded != marked).any(-1).sum() > 100


@pytest.mark.parametrize("scores", [[3.0], [3.0, 3.0]])
def test_one_evaluation_or_no_spread_is_enough(tmp_path: Path, scores: list[float]) -> None:
    assert blue(draw(tmp_path / "curve.png", scores, [0.0] * len(scores))) > 10
