"""Speed of training, ours and published: benchmarks/results/speed.md, speed.json.

    python benchmarks/speed.py
    python benchmarks/speed.py ding_jin=CLONE diffusion_ql=CLONE [rounds=10] [calls=20]
    python benchmarks/speed.py ding_jin=CLONE d3rlpy=true fql=CLONE [venv=DIR] [fql_venv=DIR]

All take turns with one thread, `calls` updates a turn, `rounds` times; a ratio is the median over
rounds of the ratio in one round. Time is the process's own on a CPU, so that what others take of
the core is not counted, and the wall's on a GPU. Everybody draws batches of 256 of the same
1,000,000 transitions with Hopper's sizes. `quick=true` is for tests. See published_code.py and
peers/fql_turns.py for the clones. d3rlpy and FQL run in processes of their own, in environments
that are made at `venv` and `fql_venv`.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
import torch
from command_line import read_options
from latency import ACTION_DIM, OBS_DIM
from omegaconf import OmegaConf
from speed_of_data import evaluation_figures, loading_figures
from speed_peers import BATCH, OPTIONS, PEER, children, published
from speed_table import markdown
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from cmpolicy.acceleration.mode import accelerated, resolve_acceleration
from cmpolicy.acceleration.precision import resolve_precision, use_precision
from cmpolicy.acceleration.stacked_agents import StackedAgents
from cmpolicy.acceleration.updates import Updates
from cmpolicy.agents import Spaces
from cmpolicy.cli.command import CONFIG_PATH, resolve_device
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.seeds import StackedBatches
from cmpolicy.rl.task import build_agent
from cmpolicy.training.machine import machine_name

HERE = Path(__file__).resolve().parent
PACKAGES = ("cmpolicy", "torch", "numpy")
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
QUICK = ["agent.policy.hidden=[8]", "agent.critic_hidden=[8]", "steps=10"]

Work = Callable[[int], Any]  # carries out so many updates
Turn = Callable[[int], float]  # does too, and gives the seconds they took


class Claim(NamedTuple):
    """`case` makes at least `factor` times the updates that `base` makes in the same time."""

    case: str
    factor: float
    base: str


DEFAULT, PUBLISHED = "ac, default", "ac_ding_jin, fp32"
SEEDS = 5
SEVERAL = f"ac, {SEEDS} seeds at once, updates of all"
CLAIMS = [
    Claim(PUBLISHED, 2, PEER),
    Claim(DEFAULT, 4, PEER),
    Claim(PUBLISHED, 0.75, "products of ac_ding_jin, fp32"),
    Claim("ac, fp32", 0.75, "products of ac, fp32"),
]
# name: (agent, precision, acceleration)
OURS = {
    DEFAULT: ("ac", "auto", "auto"),
    "ac, fp32": ("ac", "fp32", "auto"),
    "ac, fp32, eager": ("ac", "fp32", "off"),
    PUBLISHED: ("ac_ding_jin", "fp32", "auto"),
    "ac_ding_jin, fp32, eager": ("ac_ding_jin", "fp32", "off"),
}


def main(arguments: list[str]) -> None:
    options = read_options(
        arguments,
        {
            **OPTIONS, "rounds": 10, "calls": 20, "device": "auto", "quick": False,
            "out": str(HERE / "results"),
        },
    )  # fmt: skip
    quick, device = bool(options["quick"]), resolve_device(options["device"])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    use_precision("fp32", device)
    dataset = hopper_like(1_000 if quick else 1_000_000).to(device)
    versions = {name: version(name) for name in PACKAGES}
    with children(options, dataset, device) as others:
        works, computed = our_cases(dataset, device, quick)
        works[SEVERAL], computed[SEVERAL] = several_seeds(dataset, device, quick), "fp32, off"
        works |= published(options, dataset, device)
        turns = {case: timed(work, device) for case, work in works.items()} | others
        for peer in others.values():
            versions |= peer.ready()
        times = measure(turns, options["rounds"], options["calls"])
    times[SEVERAL] /= SEEDS
    update = float(np.median(times[DEFAULT]))
    result = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "machine": f"{machine_name(device)}, {device}",
        "versions": versions,
        "rounds": options["rounds"],
        "calls": options["calls"],
        "rows": [row(case, times, computed.get(case, "")) for case in times],
        "claims": [judge(c, times) for c in CLAIMS if {c.case, c.base} <= set(times)],
        "loading": loading_figures(2_000 if quick else 1_000_000),
        "evaluation": evaluation_figures(update, quick),
    }
    out = Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    (out / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "speed.md").write_text(markdown(result))
    print(markdown(result))


# Who is measured ------------------------------------------------------------------------------


def hopper_like(size: int) -> TransitionDataset:
    """Random transitions with Hopper's sizes, in episodes of 200."""
    rng = np.random.default_rng(0)
    return TransitionDataset.from_arrays(
        rng.standard_normal((size, OBS_DIM), np.float32),
        rng.uniform(-1, 1, (size, ACTION_DIM)).astype(np.float32),
        rng.standard_normal(size, np.float32),
        np.arange(size) % 200 == 199,
    )


def our_config(agent: str, quick: bool) -> RLConfig:
    """The train command's configuration."""
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        overrides = ["env=hopper-medium", f"agent={agent}", *(QUICK if quick else [])]
        config = OmegaConf.to_object(hydra.compose("rl", overrides))
    assert isinstance(config, RLConfig)
    return config


def our_cases(
    dataset: TransitionDataset, device: torch.device, quick: bool
) -> tuple[dict[str, Work], dict[str, str]]:
    """Our agents and, by the same names after "products of", the products of one update of each.

    The second dictionary says how each case computes, or how much.
    """
    cases: dict[str, Work] = {}
    computed: dict[str, str] = {}
    spaces = Spaces(OBS_DIM, [-1.0] * ACTION_DIM, [1.0] * ACTION_DIM)
    for name, (agent, wanted, wish) in OURS.items():
        config = our_config(agent, quick)
        learner = build_agent(config, spaces).to(device)
        data = learner.prepare(dataset)
        precision = resolve_precision(wanted, device, config.AUTO_PRECISION)
        acceleration = resolve_acceleration(wish, learner, device, config.steps)
        plain = Updates(learner, data, BATCH, bfloat16=precision == "bf16")
        plain(1)  # the optimisers' states are there from now on
        products, flops = products_of(plain)
        cases.setdefault(f"products of {agent}, {precision}", products)
        computed.setdefault(f"products of {agent}, {precision}", f"{flops / 1e9:.2f} GFLOP")
        advance = accelerated(learner, data, BATCH, acceleration, precision)
        cases[name] = repeated(advance)
        computed[name] = f"{precision}, {acceleration}"
    return cases, computed


def repeated(advance: Callable[[int], tuple[int, Any]]) -> Work:
    def work(updates: int) -> None:
        while updates:
            updates -= advance(updates)[0]

    return work


def several_seeds(dataset: TransitionDataset, device: torch.device, quick: bool) -> Work:
    """An update of SEEDS stacked agents, with a batch for each."""
    config = our_config("ac", quick)
    spaces = Spaces(OBS_DIM, [-1.0] * ACTION_DIM, [1.0] * ACTION_DIM)
    agents = [build_agent(config, spaces).to(device) for _ in range(SEEDS)]
    prepared = [agent.prepare(dataset) for agent in agents]
    generators = [torch.Generator(device).manual_seed(seed) for seed in range(SEEDS)]
    stack, batches = StackedAgents(agents, generators), StackedBatches(prepared[0], generators)

    def work(updates: int) -> None:
        for _ in range(updates):
            stack.update(batches.sample(BATCH))

    return work


class Recorder(TorchDispatchMode):
    """Keeps every matrix product that runs: the operation, and tensors as its own were."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            copies = tree_map(
                lambda t: t.detach().clone() if isinstance(t, torch.Tensor) else t, args
            )
            self.calls.append((func, copies, dict(kwargs or {})))
        return func(*args, **(kwargs or {}))


def products_of(updates: Updates) -> tuple[Work, int]:
    """The matrix products of an update, forward and backward, and nothing else; how many flops."""
    with Recorder() as recorder:
        updates.update()

    @torch.no_grad()
    def work(times: int) -> None:
        for _ in range(times):
            for func, args, kwargs in recorder.calls:
                func(*args, **kwargs)

    with FlopCounterMode(display=False) as counter:
        work(1)
    return work, counter.get_total_flops()


# How ------------------------------------------------------------------------------------------


def measure(turns: Mapping[str, Turn], rounds: int, calls: int) -> dict[str, Any]:
    """Seconds of an update, (rounds,) a case."""
    times = {case: np.zeros(rounds) for case in turns}
    for turn in turns.values():  # compilers, libraries and optimisers begin here
        turn(calls)
    for i in range(rounds):
        for case, turn in turns.items():
            turn(2)  # after another's turn the caches are cold
            times[case][i] = turn(calls) / calls
    return times


def timed(work: Work, device: torch.device) -> Turn:
    """Work of this process with its seconds."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time

    def turn(updates: int) -> float:
        begin = clock()
        work(updates)
        wait(device)
        return clock() - begin

    return turn


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def ratio(times: dict[str, Any], case: str, base: str) -> float:
    """How many updates `case` makes while `base` makes one."""
    return float(np.median(times[base] / times[case]))


def row(case: str, times: dict[str, Any], computed: str) -> dict[str, Any]:
    return {
        "case": case,
        "computed": computed,
        "ms": 1e3 * float(np.median(times[case])),
        "updates_per_second": 1 / float(np.median(times[case])),
        "of_peer": ratio(times, case, PEER) if PEER in times else None,
    }


def judge(claim: Claim, times: dict[str, Any]) -> dict[str, Any]:
    """Whether a claim holds, with the number."""
    found = ratio(times, claim.case, claim.base)
    return {**claim._asdict(), "ratio": found, "holds": found >= claim.factor}


if __name__ == "__main__":
    main(sys.argv[1:])
