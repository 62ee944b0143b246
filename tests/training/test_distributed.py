"""Processes that train together: parts of a batch, means, and real ones under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cmpolicy.errors import InputError
from cmpolicy.training.distributed import Ranks

PROGRAM = """
import json, sys, torch
from cmpolicy.training.distributed import Ranks
ranks = Ranks.join("cpu")
tensors = [torch.full((2, 3), float(ranks.rank)), torch.tensor(4.0 * ranks.rank)]
tensors[0] = tensors[0].T  # as gradients of channels-last weights are, not contiguous
ranks.average(tensors)
largest = ranks.largest(-ranks.rank)
found = [ranks.rank, ranks.size, ranks.main, [t.tolist() for t in tensors], largest]
open(f"{sys.argv[1]}/{ranks.rank}", "w").write(json.dumps(found))
ranks.leave()
"""


def test_one_process_is_alone() -> None:
    ranks = Ranks.join()
    assert ranks == Ranks(0, 1)
    assert ranks.main
    x = torch.tensor([1.0, 2.0])
    ranks.average([x])
    assert x.tolist() == [1, 2]
    assert ranks.largest(3) == 3
    ranks.leave()


def test_a_batch_is_divided_without_rest() -> None:
    parts = [part for rank in range(3) for part in Ranks(rank, 3).parts(24, 2)]
    assert [i for part in parts for i in range(24)[part]] == list(range(24))
    assert {len(range(24)[part]) for part in parts} == {4}
    with pytest.raises(InputError, match="batch_size=20 must be a multiple of 6: 3 processes"):
        Ranks(0, 3).parts(20, 2)


def test_two_real_processes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(program), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        found = json.loads((tmp_path / str(rank)).read_text())
        assert found == [rank, 2, rank == 0, [[[0.5] * 2] * 3, 2.0], 0]
