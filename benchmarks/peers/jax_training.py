"""Trains replicas of one published agent and keeps their actors: the part of a run that needs JAX.

    python benchmarks/peers/jax_training.py JOB.json

Runs in an environment that has JAX (see environment.py); `jax_peers.py` writes the job and reads
what is kept: in the job's directory STEP.npz at every checkpoint, the actors of all replicas and
behind them their averages, and at the end training.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax_agent import JaxAgent
from jax_iql import IQL
from jax_rebrac import ReBRAC
from jax_replicas import Replica, Replicas
from jax_td3_bc import TD3BC
from peer_transitions import Transitions
from tanh_actor import save_actors

# by name: the repository, whose clone has its name, and the agent
AGENTS: dict[str, tuple[str, Any]] = {
    "td3_bc": ("JAX-CORL", TD3BC),
    "iql": ("implicit_q_learning", IQL),
    "rebrac": ("ReBRAC", ReBRAC),
}
PACKAGES = ("jax", "jaxlib", "flax", "optax")


def agent_of(name: str, clones: Path) -> JaxAgent:
    """An agent, of the clone of its repository.

    Raises:
        SystemExit: for an unknown name, or where there is no clone.
    """
    if name not in AGENTS:
        sys.exit(f"unknown peer {name!r}, expected one of {', '.join(AGENTS)}")
    repository, agent = AGENTS[name]
    made: JaxAgent = agent(clones / repository)
    return made


def train(job: dict[str, Any]) -> None:
    """One job from its start to its end.

    A job holds peer, clones, sets {name: npz}, replicas [{set, seed, settings}], updates,
    checkpoints, batch_size (None for the published one) and directory.
    """
    clones, directory = Path(job["clones"]), Path(job["directory"])
    agent = agent_of(job["peer"], clones)
    sets = {name: Transitions.load(Path(path)) for name, path in job["sets"].items()}
    chosen = [Replica(**replica) for replica in job["replicas"]]
    replicas = Replicas(agent, sets, chosen, job["updates"], job["batch_size"])
    every = job["updates"] // job["checkpoints"]
    seconds = 0.0
    while replicas.done < every * job["checkpoints"]:
        begin = time.perf_counter()
        replicas.train(every)
        jax.block_until_ready(replicas.states)
        if replicas.done > every:  # the first part is compiled as well
            seconds += time.perf_counter() - begin
        actors = [*replicas.actors(averaged=False), *replicas.actors(averaged=True)]
        save_actors(directory / f"{replicas.done}.npz", actors)
        print(f"{replicas.done} updates", flush=True)
    timed = replicas.done - every
    done = {
        "updates_per_second": timed / seconds if timed else float("nan"),
        "batch_size": replicas.batch_size,
        "settings": dict(agent.settings),
        "device": device_name(),
        "versions": {
            **{name: version(name) for name in PACKAGES},
            AGENTS[job["peer"]][0]: commit_of(clones / AGENTS[job["peer"]][0]),
        },
    }
    (directory / "training.json").write_text(json.dumps(done, indent=1))


def device_name() -> str:
    """``cpu``, or the name of the GPU."""
    device = jax.devices()[0]
    return "cpu" if device.platform == "cpu" else str(device.device_kind)


def commit_of(clone: Path) -> str:
    """What of theirs ran; ``unknown`` where the folder is no clone of its own."""
    if not (clone / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(clone), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    """The command."""
    (path,) = sys.argv[1:]
    train(json.loads(Path(path).read_text()))


if __name__ == "__main__":
    main()
