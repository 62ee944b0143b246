"""How updates are performed: eager, compiled, or as CUDA graphs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from cmpolicy.errors import InputError

if TYPE_CHECKING:
    from cmpolicy.training.loop import Advance
from cmpolicy.training.protocols import Dataset, Learner

log = logging.getLogger("cmpolicy")
ACCELERATIONS = ("auto", "graph", "compiled_graph", "compile", "off")
# Compiling takes up to 45 seconds of a CPU and saves more than a third of each update: it pays
# after about 6,000 updates.
WORTH_COMPILING = 20_000


def check_acceleration(name: str) -> None:
    """Raise ValueError for an unknown name."""
    if name not in ACCELERATIONS:
        raise ValueError(f"unknown accelerate {name!r}, expected one of {', '.join(ACCELERATIONS)}")


def resolve_acceleration(
    name: str, learner: Learner, device: torch.device, updates: int, *, growing: bool = False
) -> str:
    """Choose one of ACCELERATIONS other than ``auto``.

    Args:
        updates: length of the whole run, so that a resumed run chooses as an uninterrupted one.
        growing: the data grow between updates: batches cannot be drawn inside a graph.

    Raises:
        InputError: if the learner, the data or the device cannot be accelerated so.
    """
    from cmpolicy.acceleration.compiled_update import Compilable

    able, graph = isinstance(learner, Compilable), name in ("graph", "compiled_graph")
    if name == "auto":
        worth = able and updates >= WORTH_COMPILING
        if device.type != "cuda" or growing or not able:
            return "compile" if worth else "off"
        return "compiled_graph" if worth else "graph"
    if name != "off" and not able:
        raise InputError(f"accelerate={name} is for agents; give accelerate=off")
    if graph and growing:
        raise InputError(f"accelerate={name} is for data that does not grow; give compile or off")
    if graph and device.type != "cuda":
        raise InputError(f"accelerate={name} is for CUDA, got device {device}; give compile or off")
    return name


def accelerated(
    learner: Learner, dataset: Dataset, batch_size: int, acceleration: str, precision: str
) -> Advance:
    """Make what performs the updates of the loop; both names are resolved ones."""
    from cmpolicy.acceleration.compiled_update import Compilable, CompiledUpdate
    from cmpolicy.acceleration.cuda_graphs import GraphedUpdates
    from cmpolicy.acceleration.updates import Updates

    updates = Updates(learner, dataset, batch_size, bfloat16=precision == "bf16")
    if acceleration == "off":
        return updates
    assert isinstance(learner, Compilable)
    compiled = acceleration in ("compile", "compiled_graph")
    if compiled and not isinstance(learner.core.update, CompiledUpdate):
        log.info("the update is compiled first, which takes up to a minute")
        learner.core.update = CompiledUpdate(learner)
    return updates if acceleration == "compile" else GraphedUpdates(updates, learner)
