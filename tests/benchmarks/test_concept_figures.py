"""The pictures of the concepts: they are drawn, and the exact paths end in the data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from cmpolicy.toys.dataset import find_toy

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_pictures_are_drawn(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "concept_figures.py"), "quick=true"]
    done = subprocess.run(
        [*command, f"out={tmp_path}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"paths.png", "modes.png", "guidance.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


def test_exact_paths_carry_noise_to_the_quantiles_of_the_data(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from concept_figures import ode_paths

    toy = find_toy("three_gmm")
    levels = torch.linspace(20 ** (1 / 7), 0.002 ** (1 / 7), 400, dtype=torch.float64) ** 7
    n = 101
    share = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    spread = (20**2 + toy.std**2) ** 0.5
    ends = ode_paths(toy, spread * torch.special.ndtri(share), levels)[-1]
    # in one dimension the flow keeps the order, so quantiles go to quantiles
    assert (toy.cdf(ends) - share).abs().max() < 0.01
