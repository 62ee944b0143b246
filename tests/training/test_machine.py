"""What a machine is called in results."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cmpolicy.training import machine


def test_the_generation_stands_beside_a_name_that_hides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    core = "vendor_id\t: X\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\n"
    file.write_text(f"processor\t: 0\n{core}processor\t: 1\n{core}")
    monkeypatch.setattr(machine, "CPUINFO", file)
    assert machine.cpu_name() == "AMD EPYC (family 25, model 17)"


def test_a_system_without_cpuinfo_has_a_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "missing")
    assert machine.cpu_name()
    assert "(" not in machine.cpu_name()


def test_threads_of_the_process_are_counted() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert machine.machine_name() == f"{machine.cpu_name()}, 1 thread"
        torch.set_num_threads(2)
        assert machine.machine_name(torch.device("cpu")).endswith(", 2 threads")
    finally:
        torch.set_num_threads(threads)
