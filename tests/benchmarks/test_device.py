"""The script for a GPU, all its parts small on a CPU."""

from __future__ import annotations

import csv
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

SMALL = "train=['agent.policy.hidden=[8]','accelerate=off','precision=fp32']"


@pytest.fixture
def device(load: Any) -> Iterator[ModuleType]:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    handler = signal.getsignal(signal.SIGTERM)
    yield load("device")
    signal.signal(signal.SIGTERM, handler)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_sets_are_packed_in_order_up_to_the_limit(
    device: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "packed"
    arguments = [f"data={folder}", f"pack={packed}", "sets=[hopper-expert,hopper-medium]"]
    assert device.main(arguments) == 0
    with h5py.File(folder / "hopper-expert.hdf5") as old, \
            h5py.File(packed / "hopper-expert.hdf5") as new:  # fmt: skip
        assert new["observations"].dtype == np.float16
        np.testing.assert_allclose(new["observations"][()], old["observations"][()], rtol=1e-3)
        assert np.array_equal(new["terminals"][()], old["terminals"][()])
        assert dict(new.attrs) == {"env_id": "Hopper-v5", "rounded_to": "float16"}
    size = (packed / "hopper-expert.hdf5").stat().st_size / 1e6
    for file in packed.iterdir():
        file.unlink()
    assert device.main([*arguments, f"limit={1.5 * size}"]) == 0
    assert [file.name for file in packed.iterdir()] == ["hopper-expert.hdf5"]
    assert "hopper-medium is left out" in capsys.readouterr().out


def test_checks_hold_and_are_not_repeated(
    device: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: graph)
    monkeypatch.setattr(sys.modules["device_checks"], "SECONDS", 1e6)
    arguments = [
        "parts=[checks]",
        "quick=true",
        "seconds=10000000",
        "device=cpu",
        f"out={tmp_path}",
    ]
    assert device.main(arguments) == 0
    table = tmp_path / "device_checks.csv"
    found = {r["check"]: r for r in rows(table)}
    assert list(found) == [
        "stacked seeds are the single ones",
        "one seed, compile is eager",
        "3 stacked seeds, compile is eager",
    ]
    assert {r["holds"] for r in found.values()} == {"True"}
    before = table.read_text()
    assert device.main(arguments) == 0
    assert table.read_text() == before


def test_a_difference_does_not_hold(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds of another start are found to differ."""
    checks = load("device_checks")
    data = checks.hopper_like(300)
    plain = checks.stacked
    monkeypatch.setattr(checks, "stacked", lambda d, p, q, seeds: plain(d, p, q, [9 - seeds[0]]))
    monkeypatch.setattr(checks, "SEEDS", 1)
    same, _ = checks.stacked_and_single(data, torch.device("cpu"), True)
    assert same <= checks.TOLERANCE
    monkeypatch.setattr(
        checks, "stacked", lambda d, p, q, s: plain(d, p, q, [len(calls) or calls.append(1) or 0])
    )
    calls: list[int] = []
    other, _ = checks.stacked_and_single(data, torch.device("cpu"), True)
    assert other > checks.TOLERANCE


def test_speed_of_updates_and_of_their_products(device: ModuleType, tmp_path: Path) -> None:
    assert (
        device.main(
            ["parts=[speed]", "quick=true", "seconds=1000000", "device=cpu", f"out={tmp_path}"]
        )
        == 0
    )
    found = {r["case"].split(", fp32")[0].split(", bf16, off")[0]: r
             for r in rows(tmp_path / "device_speed.csv")}  # fmt: skip
    five = "ac, 5 stacked seeds"
    names = {"ac, one seed", five}
    assert names <= set(found)
    products = [r for r in rows(tmp_path / "device_speed.csv") if r["gflop"]]
    assert float(products[1]["gflop"]) == pytest.approx(5 * float(products[0]["gflop"]), rel=0.05)
    for name in names:
        assert float(found[name]["updates_per_second"]) > 0
        assert int(found[name]["kernels"]) > 100
        assert 0 < float(found[name]["products_of_busy"]) < 1
    options = {"out": str(tmp_path), "device": "cpu"}
    speed = sys.modules["device_speed"].stacked_speed(options)
    assert speed == float(found[five]["updates_per_second"])


# Sets -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rows_of_sets_and_images_and_what_was_stopped_goes_on(
    device: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "packed"
    device.main([f"data={folder}", f"pack={packed}", "sets=[hopper-medium]"])
    arguments = [
        *(f"data={packed}", "sets=[hopper-medium,hopper-expert]", "agents=[bc]", "seeds=2"),
        *("protocol=quick", "device=cpu", f"out={tmp_path / 'out'}", f"runs={tmp_path / 'runs'}"),
        *("images=none", "parts=[sets,images]", SMALL),
        "image_options=['data=digits','root=null','unit=0.1','stages=[edm]','samples=30',"
        "'judges=[classifier]','train=[network.channels=8,batch_size=16]','threads=1']",
    ]
    device.main([*arguments, "seconds=31.5"])  # a second and a half, then it is told to save
    said = capsys.readouterr().out
    assert "hopper-medium bc 0,1 begins" in said
    assert "hopper-medium bc 0,1 waits for the next call" in said
    assert "no hopper-expert in" in said
    assert device.main([*arguments, "seconds=600"]) == 0
    found = rows(tmp_path / "out" / "offline_rl_quick.csv")
    assert [(r["set"], r["agent"], r["seed"], r["updates"]) for r in found] == [
        ("hopper-medium", "bc", "0", "20"),
        ("hopper-medium", "bc", "1", "20"),
    ]
    assert {r["dataset"] for r in found} == {"hopper-medium (file), rounded to float16"}
    assert all("2 seeds at once" in r["machine"] for r in found)
    assert [r["stage"] for r in rows(tmp_path / "out" / "image_chain.csv")] == ["edm"]


def sets_of(load: Any, speeds: list[float | None], steps: list[int], left: float) -> Any:
    """Runs in progress at these speeds and steps of 1,000 updates, with so many seconds left."""
    module = load("device_sets")
    sets = module.Sets.__new__(module.Sets)
    sets.waiting, sets.updates, sets.left = [object()], 1_000, lambda: left
    sets.options = {"device": "cpu", "out": "/nowhere"}
    sets.going = [SimpleNamespace(speed=v, marks=[(0.0, s)]) for v, s in
                  zip(speeds, steps, strict=True)]  # fmt: skip
    return sets


@pytest.mark.parametrize(
    ("speeds", "steps", "left", "fits"),
    [
        ([10.0], [500], 1_000, True),  # at half the speed the new one takes 200 s
        ([10.0], [500], 200, False),
        ([None], [0], 1_000, False),  # not known yet
        ([10.0, 1.0], [0, 999], 1_000, False),  # as slow as the slowest
        ([10.0, 1.0], [0, 0], 4_000, True),
    ],
)
def test_another_set_begins_only_if_all_end_in_time(
    load: Any, monkeypatch: pytest.MonkeyPatch, speeds: Any, steps: Any, left: float, fits: bool
) -> None:
    sets = sets_of(load, speeds, steps, left)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert sets.another_fits() is fits
    monkeypatch.setattr("os.cpu_count", lambda: len(speeds) + 1)
    assert not sets.another_fits()  # each needs a core


def test_the_first_sets_follow_from_the_measured_speed(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = sets_of(load, [], [], 1_000)
    sets.waiting = [object()] * 6
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    module = load("device_sets")
    for speed, count in ((None, 1), (0.1, 1), (3.6, 3), (1e9, 6)):
        monkeypatch.setattr(module, "stacked_speed", lambda options, s=speed: s)
        assert sets.at_first() == count


def test_the_screening_part_is_a_stage_of_its_own(
    load: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, called = load("device_sets"), []
    monkeypatch.setattr(module.subprocess, "run", lambda command, check: called.append(command))
    options = {"data": str(folder), "runs": str(tmp_path), "out": str(tmp_path), "seeds": 5}
    module.screen(options, lambda: 100.0)
    [command] = called
    assert {"stage=sets", "seconds=80", "seeds=5"} <= set(command)
    assert (tmp_path / "screening_data" / "sac" / "hopper-medium.hdf5").is_file()


def test_a_part_that_fails_does_not_end_the_others(
    device: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def fail(*_: Any) -> None:
        raise RuntimeError("no GPU")

    monkeypatch.setitem(device.PARTS, "checks", fail)
    monkeypatch.setitem(device.PARTS, "speed", lambda options, left: ran.append(left()))
    assert device.main(["parts=[checks,speed]", f"out={tmp_path}", "seconds=50"]) == 1
    assert 0 < ran[0] <= 50
    assert device.main(["parts=[speed]", f"out={tmp_path}", "seconds=0"]) == 0
    assert len(ran) == 1
    with pytest.raises(SystemExit, match=r"unknown parts \{'all'\}"):
        device.main(["parts=[all]"])
