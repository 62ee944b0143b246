"""Captured updates against eager ones, stacked seeds against single ones, on this device."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from csv_rows import append_row, read_rows
from speed import BATCH, hopper_like, our_config
from torch import nn

from cmpolicy.acceleration.mode import accelerated
from cmpolicy.acceleration.stacked_agents import StackedAgents
from cmpolicy.agents import Agent, Spaces
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.rl.seeds import StackedBatches
from cmpolicy.rl.task import build_agent
from cmpolicy.training.machine import machine_name

SECONDS = 60.0
UPDATES = 25  # three eager ones, two replays of ten and two of one
SEEDS = 3
TOLERANCE = 1e-3  # of a weight; products are summed in another order
MODES = {"cuda": ("graph", "compiled_graph"), "cpu": ("compile",)}
Left = Callable[[], float]


def run(options: dict[str, Any], left: Left) -> None:
    """Write a row a check into device_checks.csv, until a minute is over."""
    device, quick, path = (
        torch.device(options["device"]),
        bool(options["quick"]),
        Path(options["out"]) / "device_checks.csv",
    )
    torch.set_float32_matmul_precision("highest")
    end, done = left() - SECONDS, {(r["check"], r["machine"]) for r in read_rows(path)}
    data = hopper_like(1_000 if quick else 50_000).to(device)
    checks: dict[str, Callable[[], tuple[float, float]]] = {
        "stacked seeds are the single ones": lambda: stacked_and_single(data, device, quick),
    }
    for mode in MODES[device.type]:
        checks[f"one seed, {mode} is eager"] = lambda m=mode: modes(data, device, quick, m, 1)
        checks[f"{SEEDS} stacked seeds, {mode} is eager"] = lambda m=mode: modes(
            data, device, quick, m, SEEDS
        )
    for name, check in checks.items():
        if (name, machine_name(device)) in done or left() < end:
            continue
        before = left()
        difference, moved = check()
        row = {
            "check": name,
            "holds": difference <= TOLERANCE < moved,
            "largest_difference": f"{difference:.2e}",
            "largest_move": f"{moved:.2e}",
            "tolerance": TOLERANCE,
            "updates": UPDATES,
            "seconds": round(before - left(), 1),
            **where(device),
        }
        print(row, flush=True)
        append_row(path, row)


def where(device: torch.device) -> dict[str, str]:
    """What every row says of its origin."""
    return {
        "machine": machine_name(device),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def modes(
    data: TransitionDataset, device: torch.device, quick: bool, mode: str, seeds: int
) -> tuple[float, float]:
    """Largest difference of a weight between accelerated and eager updates, and largest move."""
    found = []
    for name in ("off", mode):
        learner, batches = learner_of(data, device, quick, seeds)
        start = [weight.clone() for weight in weights(learner)]
        torch.manual_seed(5)  # a plain agent draws from the global generator
        advance(learner, batches, name)
        found.append(weights(learner))
    return difference(*found), difference(found[0], start)


def learner_of(data: TransitionDataset, device: torch.device, quick: bool, seeds: int) -> Any:
    """What is trained and what gives it batches: a plain agent for one seed, or a stack."""
    if seeds > 1:
        return stacked(data, device, quick, list(range(seeds)))[:2]
    agent = agent_of(data, device, quick, 0)
    return agent, agent.prepare(data)


def stacked_and_single(
    data: TransitionDataset, device: torch.device, quick: bool
) -> tuple[float, float]:
    """The same of seeds trained in a stack and of each in a stack of its own."""
    together, batches, start = stacked(data, device, quick, list(range(SEEDS)))
    advance(together, batches, "off")
    gap = 0.0
    for seed, agent in enumerate(together.agents):
        alone, its_batches, _ = stacked(data, device, quick, [seed])
        advance(alone, its_batches, "off")
        gap = max(gap, difference(weights(agent), weights(alone.agents[0])))
    return gap, difference(weights(together), start)


def stacked(
    data: TransitionDataset, device: torch.device, quick: bool, seeds: list[int]
) -> tuple[StackedAgents, StackedBatches, list[torch.Tensor]]:
    """`ac` for some seeds, its batches, and a copy of its first weights."""
    agents = [agent_of(data, device, quick, seed) for seed in seeds]
    prepared = [agent.prepare(data) for agent in agents]
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    stack = StackedAgents(agents, generators)
    return stack, StackedBatches(prepared[0], generators), [w.clone() for w in weights(stack)]


def agent_of(data: TransitionDataset, device: torch.device, quick: bool, seed: int) -> Agent:
    """The default agent with the weights of a seed."""
    spaces = Spaces(data.observations.shape[1], *([b] * data.actions.shape[1] for b in (-1.0, 1.0)))
    torch.manual_seed(seed)
    return build_agent(our_config("ac", quick), spaces).to(device)


def advance(learner: Any, batches: Any, mode: str) -> None:
    """UPDATES updates in float32."""
    step, done = accelerated(learner, batches, BATCH, mode, "fp32"), 0
    while done < UPDATES:
        done += step(UPDATES - done)[0]


def weights(module: nn.Module) -> list[torch.Tensor]:
    """Parameters of a stack or of one agent."""
    module = module.core if isinstance(module, StackedAgents) else module
    return [parameter.detach() for parameter in module.parameters()]


def difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Largest difference of two lists of equal shapes."""
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))
