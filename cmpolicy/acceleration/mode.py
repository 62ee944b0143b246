"""How updates are carried out: operation by operation, compiled, or as CUDA graphs."""

from __future__ import annotations

import logging

import torch

from cmpolicy.acceleration.compiled_update import Compilable, CompiledUpdate
from cmpolicy.acceleration.cuda_graphs import GraphedUpdates
from cmpolicy.acceleration.updates import Updates
from cmpolicy.errors import InputError
from cmpolicy.training.loop import Advance, Dataset, Learner

log = logging.getLogger("cmpolicy")
ACCELERATIONS = ("auto", "graph", "compiled_graph", "compile", "off")
# Compiling takes up to three quarters of a minute of a CPU and saves more than a third of every
# update: it has paid for itself after some 6,000.
WORTH_COMPILING = 20_000


def check_acceleration(name: str) -> None:
    """Raise ValueError unless it is known."""
    if name not in ACCELERATIONS:
        raise ValueError(f"unknown accelerate {name!r}, expected one of {', '.join(ACCELERATIONS)}")


def resolve_acceleration(
    name: str, learner: Learner, device: torch.device, updates: int, *, growing: bool = False
) -> str:
    """What `name` means for a run of so many updates: one of ACCELERATIONS but ``auto``.

    Data that grows between updates is drawn from outside, so it cannot be part of a graph. A
    resumed run must come out as one in a single sitting, so `updates` is its whole length.

    Raises:
        InputError: if the learner or the device does not have it.
    """
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
    """What the loop updates `learner` with, as `acceleration` and `precision` were resolved."""
    updates = Updates(learner, dataset, batch_size, bfloat16=precision == "bf16")
    if acceleration == "off":
        return updates
    assert isinstance(learner, Compilable)
    compiled = acceleration in ("compile", "compiled_graph")
    if compiled and not isinstance(learner.core.update, CompiledUpdate):
        log.info("the update is compiled first, which takes up to a minute")
        learner.core.update = CompiledUpdate(learner)
    return updates if acceleration == "compile" else GraphedUpdates(updates, learner)
