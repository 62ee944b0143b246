"""The speed table: who takes turns, what a ratio is, what the loop gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from cmpolicy.acceleration.precision import resolve_precision
from cmpolicy.cli.command import resolve_device
from cmpolicy.rl.config import RLConfig

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"


@pytest.fixture
def speed(load: Any) -> Iterator[ModuleType]:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield load("speed")
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


AGENT = """
import torch

class Consistency_QL:
    def __init__(self, state_dim, action_dim, max_action, device, discount, tau, **options):
        self.updates = 0

    def train(self, replay_buffer, iterations, batch_size=100):
        assert torch.get_float32_matmul_precision() == "highest"
        for _ in range(iterations):
            shapes = [tuple(t.shape) for t in replay_buffer.sample(batch_size)]
            assert shapes == [(256, 11), (256, 3), (256, 11), (256, 1), (256, 1)]
"""


@pytest.mark.slow
def test_all_are_measured_in_one_run(speed: ModuleType, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    (clone / "agents").mkdir(parents=True)
    (clone / "agents" / "__init__.py").touch()
    (clone / "agents" / "ql_consistency.py").write_text(AGENT)
    out = tmp_path / "out"
    speed.main([f"ding_jin={clone}", "quick=true", "rounds=2", "calls=2", f"out={out}"])
    result = json.loads((out / "speed.json").read_text())
    rows = {r["case"]: r for r in result["rows"]}
    default = resolve_precision("auto", resolve_device("auto"), RLConfig.AUTO_PRECISION)
    products = {"products of ac, fp32", f"products of ac, {default}"}
    assert rows.keys() >= {*speed.OURS, speed.PEER, speed.SEVERAL, *products}
    assert rows["ac, fp32"]["computed"] == "fp32, off"  # the run is short
    assert rows[speed.DEFAULT]["computed"] == f"{default}, off"
    assert all(r["ms"] > 0 for r in rows.values())
    assert rows["products of ac, fp32"]["computed"].endswith(" GFLOP")
    assert len(result["claims"]) == 4
    assert 0 < result["evaluation"]["share"] < 1
    table = (out / "speed.md").read_text()
    assert ("graphs are not in the table" in table) == (not torch.cuda.is_available())
    assert str(tmp_path) not in table + json.dumps(result)


@pytest.mark.slow
@pytest.mark.skipif(
    not (PEERS / ".venv" / "installed").exists(),
    reason="no environment with d3rlpy: speed.py d3rlpy=true makes it",
)
def test_peers_in_other_environments_take_turns(speed: ModuleType, tmp_path: Path) -> None:
    speed.main(["d3rlpy=true", "quick=true", "rounds=2", "calls=2", f"out={tmp_path}"])
    result = json.loads((tmp_path / "speed.json").read_text())
    rows = {r["case"]: r for r in result["rows"]}
    assert rows.keys() >= {speed.DEFAULT, "d3rlpy's TD3+BC", "d3rlpy's IQL", "d3rlpy's ReBRAC"}
    assert all(r["ms"] > 0 for r in rows.values())
    assert result["versions"]["d3rlpy"] == "2.8.1"
    assert "d3rlpy and FQL have networks of their own" in (tmp_path / "speed.md").read_text()


def test_who_is_not_asked_for_is_not_started(load: Any, tmp_path: Path) -> None:
    peers, data = load("speed_peers"), tmp_path / "data.npz"
    assert peers.commands(peers.OPTIONS, data, torch.device("cpu")) == {}
    with pytest.raises(SystemExit, match="fql= needs device=cpu"):
        peers.commands({**peers.OPTIONS, "fql": "clone"}, data, torch.device("cuda"))


def test_a_ratio_is_of_one_round(speed: ModuleType) -> None:
    """A machine that is three times slower in one round changes no ratio."""
    slow = np.array([1.0, 3.0, 1.0])
    times = {"base": 8 * slow, "fast": 2 * slow}
    assert speed.ratio(times, "fast", "base") == 4
    assert speed.judge(speed.Claim("fast", 4, "base"), times)["holds"]
    assert not speed.judge(speed.Claim("fast", 4.1, "base"), times)["holds"]


def test_the_products_of_an_update_are_its_products(speed: ModuleType) -> None:
    left, right = torch.randn(3, 4, requires_grad=True), torch.randn(4, 5)

    class Sum:
        def update(self) -> None:
            ((left @ right).sin() + 1).sum().backward()

    with speed.Recorder() as recorder:
        Sum().update()
    shapes = [[tuple(t.shape) for t in args] for _, args, _ in recorder.calls]
    assert shapes == [[(3, 4), (4, 5)], [(3, 5), (5, 4)]]  # forward, and backward to the left alone
    work, flops = speed.products_of(Sum())
    work(2)
    assert flops == 2 * 2 * 3 * 4 * 5


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_the_loop_gives_our_transitions(load: Any, tmp_path: Path, compression: str | None) -> None:
    data = load("speed_of_data")
    path = data.write_file(tmp_path / "hopper.hdf5", 1_000, compression)
    dataset, columns = data.load_hdf5(path), data.loop(path)
    assert len(dataset) == 1_000 - 2  # two timeouts; the last row, a failure, counts
    assert len(columns["rewards"]) == 1_000 - 3
    data.check_same(dataset, columns)
    columns["rewards"][5] += 1
    with pytest.raises(SystemExit, match="rewards are not the same"):
        data.check_same(dataset, columns)
