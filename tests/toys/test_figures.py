"""Pictures of toy runs: they are written, and show their arguments."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cmpolicy.toys.figures import (
    Density,
    Paths,
    draw_bandit,
    draw_histograms,
    draw_toy_panel,
    draw_toy_panel_2d,
)

LEVELS = np.array([80.0, 5.0, 0.5, 0.0])
SCORES = {f"{n} steps": {"w1": 0.1, "kl": 0.2, "std_ratio": 1.0} for n in (1, 2, 4, 20)}
TRUTH = Density.on_grid(lambda x: np.exp(-0.5 * x[:, 0] ** 2) / np.sqrt(2 * np.pi), -4, 4)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def look(path):
    """Width, height, and the number of colours of a picture."""
    with Image.open(path) as image:
        return *image.size, len(image.convert("RGB").getcolors(maxcolors=1 << 24))


def panel(path, paths, samples, scores=SCORES):
    draw_toy_panel(path, paths, samples, TRUTH, scores, title="a run", sigma_data=1.0)
    return path


def test_a_panel_in_one_dimension(tmp_path, rng):
    positions = rng.normal(size=(4, 60)) * np.sqrt(1 + LEVELS[:, None] ** 2)
    paths = {name: Paths(LEVELS, positions) for name in ("Euler", "Heun", "multistep")}
    samples = rng.normal(size=(2000, 1))
    width, height, colours = look(panel(tmp_path / "panel.png", paths, samples))
    assert width > 1500
    assert height > 600
    assert colours > 500
    drawn = [
        panel(tmp_path / "a.png", {}, x, s).read_bytes()
        for x, s in ((samples, SCORES), (np.full(9, 0.5), SCORES), (samples, {"1": {"w1": 0.3}}))
    ]
    assert len(set(drawn)) == 3


def test_a_panel_in_two_dimensions(tmp_path, rng):
    path = tmp_path / "panel.png"
    clouds = {"one step": rng.normal(size=(500, 2)), "4 steps": 9 * rng.normal(size=(500, 2))}
    draw_toy_panel_2d(path, rng.normal(size=(500, 2)), clouds, SCORES, title="a run")
    width, height, colours = look(path)
    assert width > 1000
    assert height > 500
    assert colours > 100


def test_a_grid_of_histograms(tmp_path, rng):
    path = tmp_path / "histograms.png"
    samples = {k: {"one": rng.normal(size=500), "two": rng.normal(size=(500, 1))} for k in "ab"}
    draw_histograms(path, samples, {"one": TRUTH, "two": TRUTH}, title="conditions")
    assert look(path)[2] > 50


def test_a_bandit(tmp_path, rng):
    path, grid = tmp_path / "bandit.png", np.linspace(-1, 1, 50)
    actions = {"behaviour": rng.uniform(-1, 1, 300), "actor": rng.uniform(0, 1, (300, 1))}
    draw_bandit(path, actions, grid, 1 + grid, title="bandit")
    assert look(path)[2] > 50
