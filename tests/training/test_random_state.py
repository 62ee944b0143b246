"""Where a run's random numbers stand."""

from __future__ import annotations

import torch

from cmpolicy.training.distributed import Ranks
from cmpolicy.training.random_state import (
    GlobalRandomState,
    OwnRandomState,
    preserved_random_state,
)


def test_a_generator_goes_on_where_torchs_stands_and_leaves_it_there() -> None:
    torch.manual_seed(4)
    torch.randn(3)
    own = OwnRandomState(torch.device("cpu"))
    mine = torch.randn(5, generator=own.generator)
    assert torch.equal(mine, torch.randn(5))


def test_either_state_loads_into_the_other() -> None:
    torch.manual_seed(4)
    own, of_torch = OwnRandomState(torch.device("cpu")), GlobalRandomState(Ranks())
    torch.rand(2, generator=own.generator)
    of_torch.load(own.state())
    assert torch.equal(torch.rand(3), torch.rand(3, generator=own.generator))
    torch.rand(7)
    own.load(of_torch.state())
    assert torch.equal(torch.rand(3), torch.rand(3, generator=own.generator))


def test_what_is_drawn_or_seeded_within_changes_nothing() -> None:
    torch.manual_seed(4)
    with preserved_random_state():
        torch.manual_seed(7)
        torch.randn(3)
    mine = torch.randn(5)
    torch.manual_seed(4)
    assert torch.equal(mine, torch.randn(5))
