"""Updates of several seeds at once against one seed after another: results/replicas.md, .json;
with accelerate=compile both compiled, results/replicas_compiled.md, .json;
on a GPU captured or both, results/replicas_graph.md and results/replicas_compiled_graph.md.

    python benchmarks/replicas.py [agents=[ac,bc]] [seeds=[1,2,5,10]] [rounds=7] [updates=3]
        [hidden=32] [device=cpu] [accelerate=compile]
    python benchmarks/replicas.py device=cuda accelerate=compiled_graph updates=200

Hopper's shapes, batches of 256, one CPU thread. In each round one seed alone and each stack take
their turn; the gain of N seeds is the median over rounds of N × (time of one update alone)/(time of
one update of the stack). On a CPU time is that of the process, so that a busy machine counts for
neither; on a GPU it is the clock's. Data is random: time does not depend on it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from command_line import read_options
from omegaconf import OmegaConf

from cmpolicy.acceleration.mode import accelerated
from cmpolicy.acceleration.precision import use_fast_float32_products
from cmpolicy.acceleration.stacked_agents import StackedAgents
from cmpolicy.agents import Spaces
from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.seeds import StackedBatches
from cmpolicy.rl.task import build_agent
from cmpolicy.training.loop import Advance
from cmpolicy.training.machine import machine_name

DEFAULTS: dict[str, Any] = {
    "agents": ["ac", "bc", "iql", "diffusion_ql", "ac_ding_jin"], "seeds": [1, 2, 5, 10],
    "rounds": 7, "updates": 3, "hidden": None, "device": "cpu", "accelerate": "off",
    "out": str(Path(__file__).resolve().parent / "results"),
}  # fmt: skip
WORDS = {
    "off": "", "compile": "compiled", "graph": "as CUDA graphs",
    "compiled_graph": "compiled as CUDA graphs",
}  # fmt: skip
SPACES = Spaces(11, [-1.0] * 3, [1.0] * 3)


def main(arguments: list[str]) -> None:
    options = read_options(arguments, DEFAULTS)
    torch.set_num_threads(1)
    device = torch.device(options["device"])
    use_fast_float32_products(device)
    counts = options["seeds"]
    rows = [measure(name, counts, options, device) | {"agent": name} for name in options["agents"]]
    write(rows, options, device)


def measure(
    name: str, counts: list[int], options: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """Milliseconds of an update alone and in stacks, and the gain of each stack."""
    config, data = configuration(name, options["hidden"]), random_data(device)
    alone = build_agent(config, SPACES).to(device)
    prepared = alone.prepare(data)
    how = (config.batch_size, options["accelerate"], "fp32")
    turns: dict[int, Advance] = {0: accelerated(alone, prepared, *how)}
    for count in counts:
        stack, batches = stack_of(config, count, prepared, device)
        turns[count] = accelerated(stack, batches, *how)
    times: dict[int, list[float]] = {count: [] for count in turns}
    for round_ in range(options["rounds"] + 1):
        for count, advance in turns.items():
            seconds = seconds_of(advance, options["updates"], device)
            if round_:  # the first one warms up
                times[count].append(seconds)
    gains = {
        count: [count * one / all_ for one, all_ in zip(times[0], times[count], strict=True)]
        for count in counts
    }
    return {
        "alone_ms": 1e3 * statistics.median(times[0]),
        "ms": {count: 1e3 * statistics.median(times[count]) for count in counts},
        "gain": {count: statistics.median(gains[count]) for count in counts},
    }


def stack_of(
    config: RLConfig, count: int, data: TransitionDataset, device: torch.device
) -> tuple[StackedAgents, StackedBatches]:
    """`count` seeds, and what gives them batches."""
    agents = [build_agent(config, SPACES).to(device) for _ in range(count)]
    generators = [torch.Generator(device).manual_seed(seed) for seed in range(count)]
    return StackedAgents(agents, generators), StackedBatches(data, generators)


def seconds_of(advance: Advance, updates: int, device: torch.device) -> float:
    """Of one update."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    begin, left = clock(), updates
    while left:
        left -= advance(left)[0]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (clock() - begin) / updates


def configuration(name: str, hidden: int | None) -> RLConfig:
    """A file of configs/agent/, with layers of another width if `hidden` is given."""
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = OmegaConf.to_object(hydra.compose("rl", ["env=hopper-medium", f"agent={name}"]))
    assert isinstance(config, RLConfig)
    for part, key in ((config.agent.policy, "hidden"), (config.agent, "critic_hidden")):
        if hidden is not None and hasattr(part, key):
            setattr(part, key, [hidden, hidden])
    return config


def random_data(device: torch.device, steps: int = 20_000) -> TransitionDataset:
    """Transitions of Hopper's shapes."""
    rng = np.random.default_rng(0)
    return TransitionDataset.from_arrays(
        rng.normal(size=(steps, 11)),
        rng.uniform(-1, 1, size=(steps, 3)),
        rng.normal(size=steps),
        np.arange(steps) % 200 == 199,
    ).to(device)


def write(rows: list[dict[str, Any]], options: dict[str, Any], device: torch.device) -> None:
    """The table, and its numbers."""
    counts, rounds, out = options["seeds"], options["rounds"], Path(options["out"])
    what = machine_name(device)
    how = WORDS[options["accelerate"]]
    too = f", {how} too" if how else ""
    lines = [
        f"# Several seeds at once{f', {how}' if how else ''}",
        "",
        f"`python {' '.join(['benchmarks/replicas.py', *sys.argv[1:]])}` on {what}, torch "
        f"{torch.__version__}: updates/s summed over seeds, as a multiple of those "
        f"of one seed alone{too}, so of N runs one after another; medians of {rounds} rounds in "
        "which all take turns, on a machine that others used as well. Above 1 it pays to stack.",
        "",
        "| agent | alone, ms | " + " | ".join(f"{c} at once" for c in counts) + " |",
        "|---|---|" + "---|" * len(counts),
    ]
    for row in rows:
        gains = " | ".join(f"{row['gain'][count]:.2f}" for count in counts)
        lines.append(f"| `{row['agent']}` | {row['alone_ms']:.1f} | {gains} |")
    out.mkdir(parents=True, exist_ok=True)
    stem = "_".join(["replicas", *how.replace("as CUDA graphs", "graph").split()])
    (out / f"{stem}.md").write_text("\n".join(lines) + "\n")
    (out / f"{stem}.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(lines[4:]))


if __name__ == "__main__":
    main(sys.argv[1:])
