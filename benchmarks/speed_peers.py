"""Whom speed.py measures beside us: published code in our process, d3rlpy and FQL in their own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.environment import d3rlpy_python, fql_python
from peers.turns import Child, child
from published_code import diffusion_ql_agent, ding_jin_agent

from cmpolicy.acceleration.precision import use_precision
from cmpolicy.datasets.transitions import TransitionDataset

BATCH = 256  # of everybody
PEERS = Path(__file__).resolve().parent / "peers"
PEER, DIFFUSION_QL, FQL = "Ding & Jin's code", "Diffusion-QL's code", "FQL's code"
D3RLPY = {"d3rlpy's TD3+BC": "td3_bc", "d3rlpy's IQL": "iql", "d3rlpy's ReBRAC": "rebrac"}
COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminals")
OPTIONS: dict[str, Any] = {
    "ding_jin": None, "diffusion_ql": None, "d3rlpy": False, "fql": None,
    "venv": str(PEERS / ".venv"), "fql_venv": str(PEERS / "fql" / ".venv"),
}  # fmt: skip


# In our process -------------------------------------------------------------------------------


def published(
    options: dict[str, Any], dataset: TransitionDataset, device: torch.device
) -> dict[str, Callable[[int], None]]:
    """Agents that make so many updates, with PyTorch's own settings."""
    agents: dict[str, Any] = {}
    sizes = (dataset.observations.shape[1], dataset.actions.shape[1], str(device))
    if options["ding_jin"]:
        agents[PEER] = ding_jin_agent(Path(options["ding_jin"]), *sizes)
    if options["diffusion_ql"]:
        agents[DIFFUSION_QL] = diffusion_ql_agent(Path(options["diffusion_ql"]), *sizes)
    replay_buffer = ReplayBuffer(dataset)
    return {name: theirs(agent, replay_buffer, device) for name, agent in agents.items()}


class ReplayBuffer:
    """What the published `train` draws batches from."""

    def __init__(self, dataset: TransitionDataset) -> None:
        self.dataset = dataset

    def sample(self, batch_size: int) -> tuple[torch.Tensor, ...]:
        b = self.dataset.sample(batch_size)
        going_on = 1 - b.terminals[:, None]
        return b.observations, b.actions, b.next_observations, b.rewards[:, None], going_on


def theirs(agent: Any, replay_buffer: ReplayBuffer, device: torch.device) -> Callable[[int], None]:
    def work(updates: int) -> None:
        torch.set_float32_matmul_precision("highest")
        agent.train(replay_buffer, updates, BATCH)
        use_precision("fp32", device)

    return work


# In processes of their own --------------------------------------------------------------------


@contextmanager
def children(
    options: dict[str, Any], dataset: TransitionDataset, device: torch.device
) -> Iterator[dict[str, Child]]:
    """d3rlpy's algorithms and FQL, which get ready all at once and end with the block."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        found = commands(options, Path(folder) / "data.npz", device)
        if found:
            arrays = {name: getattr(dataset, name).cpu().numpy() for name in COLUMNS}
            np.savez(Path(folder) / "data.npz", **arrays)
        yield {name: stack.enter_context(child(name, command)) for name, command in found.items()}


def commands(options: dict[str, Any], data: Path, device: torch.device) -> dict[str, list[str]]:
    """What starts each of those that were asked for."""
    found: dict[str, list[str]] = {}
    if options["d3rlpy"]:
        python = str(d3rlpy_python(Path(options["venv"])))
        script = [python, str(PEERS / "d3rlpy_turns.py")]
        for name, algorithm in D3RLPY.items():
            found[name] = [*script, algorithm, str(data), str(BATCH), str(device)]
    if options["fql"]:
        if device.type != "cpu":
            sys.exit("fql= needs device=cpu: the JAX of its environment is for CPUs")
        python = str(fql_python(Path(options["fql_venv"])))
        script = [python, str(PEERS / "fql_turns.py")]
        found[FQL] = [*script, str(options["fql"]), str(data), str(BATCH)]
    return found
