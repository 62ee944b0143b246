"""The latency table: who is in it, whose code is run, and what its ratios are."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
AGENT = """
import numpy as np, torch
from utils.logger import logger

class Actor(torch.nn.Module):
    def __init__(self, action_dim):
        super().__init__()
        self.action_dim = action_dim

    def sample(self, state):
        assert state.dtype == torch.float32 and not torch.is_grad_enabled()
        return torch.zeros(len(state), self.action_dim)

class {name}:
    def __init__(self, state_dim, action_dim, max_action, device, discount, tau, **options):
        assert options["n_timesteps"] == {steps}
        self.actor, self.origin = Actor(action_dim), logger

    def sample_action(self, state):
        return np.zeros(self.actor.action_dim)
"""


@pytest.fixture
def latency(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("latency")
    torch.set_num_threads(threads)
    for name in ("latency", "published_code"):
        sys.modules.pop(name, None)


def clone(path: Path, module: str, name: str, steps: int) -> Path:
    """Published code in small: the same modules, classes and arguments."""
    for package in ("agents", "utils"):
        (path / package).mkdir(parents=True)
        (path / package / "__init__.py").touch()
    (path / "utils" / "logger.py").write_text(f"logger = {path.name!r}")
    (path / "agents" / f"{module}.py").write_text(AGENT.format(name=name, steps=steps))
    return path


@pytest.mark.slow
def test_all_are_measured_in_one_run(
    latency: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "NETWORKS", {latency.DEFAULT: {"hidden": [8]}})
    first = clone(tmp_path / "first", "ql_consistency", "Consistency_QL", 2)
    second = clone(tmp_path / "second", "ql_diffusion", "Diffusion_QL", 5)
    out = tmp_path / "out"
    options = [f"ding_jin={first}", f"diffusion_ql={second}", "rounds=2", "calls=3", f"out={out}"]
    latency.main(options)
    result = json.loads((out / "latency.json").read_text())
    rows = {(r["what"], r["network"], r["observations"]): r for r in result["rows"]}
    assert len(rows) == len(result["rows"]) == 16
    assert all(0 < r["median_us"] <= r["p99_us"] for r in rows.values())
    table = (out / "latency.md").read_text()
    assert sum(line.startswith("| ") for line in table.splitlines()) == 1 + len(rows)
    assert not any(c["holds"] for c in result["claims"])  # these clones do nothing
    assert table.count("does not hold") == len(result["claims"]) == 2
    assert str(tmp_path) not in table + json.dumps(result)


def test_two_clones_do_not_mix(latency: ModuleType, tmp_path: Path) -> None:
    published = importlib.import_module("published_code")
    first = clone(tmp_path / "first", "ql_consistency", "Consistency_QL", 2)
    second = clone(tmp_path / "second", "ql_diffusion", "Diffusion_QL", 5)
    assert published.ding_jin_agent(first, 3, 2).origin == "first"
    assert published.diffusion_ql_agent(second, 3, 2).origin == "second"
    assert not {"agents", "utils"} & sys.modules.keys()
    with pytest.raises(SystemExit, match=r"has no agents\.ql_diffusion"):
        published.diffusion_ql_agent(first, 3, 2)


def test_a_ratio_is_of_one_round(latency: ModuleType) -> None:
    """A machine that is three times slower in one round changes no ratio."""
    base, fast = latency.Case("base"), latency.Case("fast")
    slow = np.array([[1.0], [3.0], [1.0]])
    times: dict[Any, Any] = {base: 60 * slow * np.ones((3, 5)), fast: 20 * slow * np.ones((3, 5))}
    assert latency.ratio(times, fast, base) == pytest.approx(1 / 3)
    claim = latency.Claim(fast, 0.34, base, ceiling=25.0)
    assert latency.judge(claim, times)["holds"]
    assert not latency.judge(claim._replace(ceiling=19.0), times)["holds"]
    assert not latency.judge(claim._replace(fraction=0.33), times)["holds"]


def test_unknown_options_are_refused(latency: ModuleType) -> None:
    with pytest.raises(SystemExit, match="unknown option 'round'"):
        latency.main(["round=3"])
