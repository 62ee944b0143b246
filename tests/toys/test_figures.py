from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cmpolicy.errors import InputError
from cmpolicy.toys.figures import (
    Paths,
    density_on_grid,
    draw_bandit,
    draw_toy_comparison,
    draw_toy_panel,
    draw_toy_panel_2d,
)

LEVELS = np.array([80.0, 5.0, 0.5, 0.0])
SCORES = {f"{n} steps": {"w1": 0.1, "kl": 0.2, "std_ratio": 1.0} for n in (1, 2, 4, 20)}


def normal(x):
    return np.exp(-0.5 * x[:, 0] ** 2) / np.sqrt(2 * np.pi)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def truth():
    return density_on_grid(normal, -4, 4)


def look(path):
    """Width, height, and the number of colours of a picture."""
    with Image.open(path) as image:
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
        return *image.size, len(colours)


def panel(path, rng, truth, **changes):
    positions = rng.normal(size=(4, 60)) * np.sqrt(1 + LEVELS[:, None] ** 2)
    arguments = {
        "paths": {name: Paths(LEVELS, positions) for name in ("Euler", "Heun", "multistep")},
        "samples": rng.normal(size=(2000, 1)),
        "truth": truth,
        "scores": SCORES,
        "title": "a run",
        "sigma_data": 1.0,
    }
    draw_toy_panel(path, **(arguments | changes))
    return path


def test_a_panel_is_written(tmp_path, rng, truth):
    width, height, colours = look(panel(tmp_path / "panel.png", rng, truth))
    assert width > 1500
    assert height > 600
    assert colours > 500


def test_a_panel_shows_its_samples(tmp_path, rng, truth):
    first = panel(tmp_path / "a.png", rng, truth, paths={}).read_bytes()
    other = panel(tmp_path / "b.png", rng, truth, paths={}, samples=np.full(9, 0.5)).read_bytes()
    assert first != other


def test_a_panel_without_scores_and_with_gaps(tmp_path, rng, truth):
    panel(tmp_path / "a.png", rng, truth, scores={}, paths={})
    panel(tmp_path / "b.png", rng, truth, scores={"1 step": {"w1": 0.1}, "2": {}}, paths={})


def test_a_panel_in_two_dimensions(tmp_path, rng):
    path = tmp_path / "panel.png"
    clouds = {"one step": rng.normal(size=(500, 2)), "4 steps": 9 * rng.normal(size=(500, 2))}
    draw_toy_panel_2d(path, rng.normal(size=(500, 2)), clouds, SCORES, title="a run")
    width, height, colours = look(path)
    assert width > 1000
    assert height > 500
    assert colours > 100


def test_a_comparison_with_an_empty_cell(tmp_path, rng, truth):
    path = tmp_path / "comparison.png"
    samples = {
        "CT": {"one": rng.normal(size=500)},
        "sCD": {"one": rng.normal(size=(500, 1)), "two": rng.normal(size=500)},
    }
    draw_toy_comparison(
        path, samples, {"one": truth, "two": truth}, {"CT": {"one": "W1 0.021"}}, title="losses"
    )
    assert look(path)[2] > 50


def test_a_bandit(tmp_path, rng):
    path, grid = tmp_path / "bandit.png", np.linspace(-1, 1, 50)
    actions = {"behaviour": rng.uniform(-1, 1, 300), "actor": rng.uniform(0, 1, (300, 1))}
    draw_bandit(path, actions, grid, 1 + grid, title="bandit")
    assert look(path)[2] > 50


def test_wrong_input_writes_nothing(tmp_path, rng, truth):
    path = tmp_path / "panel.png"
    with pytest.raises(InputError, match="a row for each of the 4 levels"):
        Paths(LEVELS, np.zeros((3, 5)))
    with pytest.raises(InputError, match="levels must decrease"):
        Paths(LEVELS[::-1], np.zeros((4, 5)))
    with pytest.raises(InputError, match="all finite"):
        panel(path, rng, truth, samples=np.array([0.0, np.nan]))
    with pytest.raises(InputError, match=r"one step has shape \(3, 1\), expected \(N, 2\)"):
        draw_toy_panel_2d(path, np.eye(2), {"one step": np.zeros((3, 1))}, {}, title="")
    with pytest.raises(InputError, match="truth holds NaN"):
        draw_toy_panel_2d(path, np.full((2, 2), np.nan), {}, {}, title="")
    assert not path.exists()
