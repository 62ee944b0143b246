"""Where a run's random numbers stand, as its checkpoint holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from cmpolicy.training.distributed import Ranks


class RandomState(Protocol):
    """The generators that a run draws from."""

    def state(self) -> dict[str, Any]:
        """``cpu``: a state; ``cuda``: a state for each GPU, or none."""
        ...

    def load(self, state: Mapping[str, Any], /) -> None:
        """Go on from what `state` gave."""
        ...


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Within, anybody may draw from torch's global generators or seed them: it changes nothing."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = range(torch.cuda.device_count() if used else 0)
    with torch.random.fork_rng(gpus):
        yield


class GlobalRandomState:
    """Torch's global generators, of every device."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def state(self) -> dict[str, Any]:
        """See `RandomState`."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `RandomState`."""
        torch.set_rng_state(state["cpu"])
        if torch.cuda.is_available() and state["cuda"]:
            if self.ranks.size > 1:  # all draw as the first does, which has written
                torch.cuda.set_rng_state(state["cuda"][0])
            else:
                torch.cuda.set_rng_state_all(state["cuda"])


class OwnRandomState:
    """A generator on one device that starts where torch's global one of that device stands.

    Its state reads as that of the global generators: one seed of several can go on alone.
    """

    def __init__(self, device: torch.device) -> None:
        self.cpu = torch.get_rng_state()
        self.generator = torch.Generator(device)
        self.cuda = device.type == "cuda"
        self.generator.set_state(torch.cuda.get_rng_state(device) if self.cuda else self.cpu)

    def state(self) -> dict[str, Any]:
        """See `RandomState`."""
        mine = self.generator.get_state()
        if self.cuda:
            return {"cpu": self.cpu, "cuda": [mine] * torch.cuda.device_count()}
        return {"cpu": mine, "cuda": []}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `RandomState`."""
        self.generator.set_state(state["cuda"][0] if self.cuda else state["cpu"])
