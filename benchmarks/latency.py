"""Latency of an action on one CPU core, ours and published: benchmarks/results/latency.md, .json.

    python benchmarks/latency.py
    python benchmarks/latency.py ding_jin=CLONE diffusion_ql=CLONE [rounds=100] [calls=20]

All take turns in one process with one thread, each with `calls` actions in a row, `rounds` times;
a ratio is the median over rounds of the ratio of two medians. The networks are untrained: time does
not depend on weights. See published_code.py for the clones.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
import onnxruntime
import torch
from command_line import read_options
from omegaconf import OmegaConf
from published_code import diffusion_ql_agent, ding_jin_agent

from cmpolicy import ConsistencyPolicy
from cmpolicy.agents import Spaces
from cmpolicy.agents.agent import AgentConfig
from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.policy.export_graph import PolicyGraph, to_onnx
from cmpolicy.rl.task import build_agent
from cmpolicy.training.machine import machine_name

HERE = Path(__file__).resolve().parent
PACKAGES = ("cmpolicy", "torch", "numpy", "onnxruntime")
OBS_DIM, ACTION_DIM = 11, 3  # of Hopper
BATCH = 64
CHUNK = 8  # actions
DEFAULT, PEERS = "2×256 SiLU", "3×256 Mish"  # networks: our default, and that of both peers
NETWORKS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    PEERS: {"hidden": [256, 256, 256], "activation": "mish"},
}


class Case(NamedTuple):
    """A row: what is called, with which network, on how many observations.

    Where a call gives several actions its time counts by action.
    """

    what: str
    network: str = PEERS
    observations: int = 1
    actions: int = 1


class Claim(NamedTuple):
    """`case` takes at most `fraction` of what `base` takes, and at most `ceiling` µs."""

    case: Case
    fraction: float
    base: Case
    ceiling: float | None = None


SAMPLE = Case("Ding & Jin, actor.sample, 2 steps")
SAMPLE_ACTION = Case("Ding & Jin, sample_action, best of 50")
CLAIMS = [
    *(Claim(Case("policy.act, 1 step", network), 1 / 3, SAMPLE) for network in NETWORKS),
    *(Claim(Case("ONNX, 1 step", network), 1 / 10, SAMPLE_ACTION, 60.0) for network in NETWORKS),
]


def main(arguments: list[str]) -> None:
    options = read_options(arguments, {
        "ding_jin": None, "diffusion_ql": None, "rounds": 100, "calls": 20,
        "out": str(HERE / "results"),
    })  # fmt: skip
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = {**our_policy(), **our_published_setting()}
    if options["ding_jin"]:
        cases |= ding_jin(Path(options["ding_jin"]))
    if options["diffusion_ql"]:
        cases |= diffusion_ql(Path(options["diffusion_ql"]))
    times = measure(cases, options["rounds"], options["calls"])
    result = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "machine": machine_name(),
        "versions": {name: version(name) for name in PACKAGES},
        "rounds": options["rounds"],
        "calls": options["calls"],
        "rows": [row(case, times) for case in times],
        "claims": [
            judge(claim, times) for claim in CLAIMS if {claim.case, claim.base} <= set(times)
        ],
    }
    out = Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    (out / "latency.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "latency.md").write_text(markdown(result))
    print(markdown(result))


# Who is measured ------------------------------------------------------------------------------


def our_policy() -> dict[Case, Callable[[], Any]]:
    """`policy.act`, and the exported policy with its noise drawn by NumPy."""
    cases: dict[Case, Callable[[], Any]] = {}
    one, many = np.random.randn(OBS_DIM), np.random.randn(BATCH, OBS_DIM)
    for network, config in NETWORKS.items():
        for steps in (1, 2):
            policy = ConsistencyPolicy(OBS_DIM, ACTION_DIM, steps=steps, **config)
            run = onnx_runner(policy)
            for observations in (one, many):
                batch = len(observations) if observations.ndim == 2 else 1
                name = f"{steps} step{'s' if steps > 1 else ''}"
                cases[Case(f"policy.act, {name}", network, batch)] = bind(policy.act, observations)
                single = observations.reshape(batch, OBS_DIM).astype(np.float32)
                cases[Case(f"ONNX, {name}", network, batch)] = bind(run, single)
    return cases | our_mode(one) | our_chunks(one)


def our_mode(observation: Any) -> dict[Case, Callable[[], Any]]:
    """The default policy as agents act: by the mode of its samples."""
    policy, mode_of = ConsistencyPolicy(OBS_DIM, ACTION_DIM), AgentConfig().mode_of
    run, single = onnx_runner(policy, mode_of), observation[None].astype(np.float32)
    act = partial(policy.act, mode_of=mode_of)
    return {
        Case(f"policy.act, the mode of {mode_of}, 1 step", DEFAULT): bind(act, observation),
        Case(f"ONNX, the mode of {mode_of}, 1 step", DEFAULT): bind(run, single),
    }


def our_chunks(observation: Any) -> dict[Case, Callable[[], Any]]:
    """The exported policy that gives a chunk of actions a call."""
    policy = ConsistencyPolicy(OBS_DIM, ACTION_DIM, horizon=CHUNK)
    run, single = onnx_runner(policy), observation[None].astype(np.float32)
    name = f"ONNX, 1 step, a chunk of {CHUNK}, an action of it"
    return {Case(name, DEFAULT, actions=CHUNK): bind(run, single)}


def onnx_runner(policy: ConsistencyPolicy, mode_of: int = 1) -> Callable[[Any], Any]:
    """The exported policy under onnxruntime: float32 observations (B, obs_dim) → actions."""
    graph, rng = PolicyGraph(policy, mode_of=mode_of), np.random.default_rng(0)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(to_onnx(graph, {}), options)

    def run(observations: Any) -> Any:
        feed = {"observations": observations}
        if "noise" in graph.inputs:
            shape = len(observations), *graph.inputs["noise"]
            feed["noise"] = rng.standard_normal(shape, np.float32)
        return session.run(None, feed)[0]

    return run


def our_published_setting() -> dict[Case, Callable[[], Any]]:
    """`agent=ac_ding_jin`, which draws fifty candidates as the published agent does."""
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = hydra.compose("rl", ["env=hopper-medium", "agent=ac_ding_jin"])
    spaces = Spaces(OBS_DIM, [-1.0] * ACTION_DIM, [1.0] * ACTION_DIM)
    agent = build_agent(OmegaConf.to_object(config), spaces)  # type: ignore[arg-type]
    one = np.random.randn(1, OBS_DIM).astype(np.float32)
    return {Case("our agent=ac_ding_jin, 2 steps, best of 50"): bind(agent.act, one)}


def ding_jin(clone: Path) -> dict[Case, Callable[[], Any]]:
    """The published Consistency-AC: its policy alone, and as it acts."""
    agent = ding_jin_agent(clone, OBS_DIM, ACTION_DIM)
    return {
        SAMPLE: bind(torch.no_grad()(agent.actor.sample), torch.randn(1, OBS_DIM)),
        SAMPLE_ACTION: bind(agent.sample_action, np.random.randn(OBS_DIM)),
    }


def diffusion_ql(clone: Path) -> dict[Case, Callable[[], Any]]:
    """Diffusion-QL: its policy alone, and as it acts."""
    agent = diffusion_ql_agent(clone, OBS_DIM, ACTION_DIM)
    sample = torch.no_grad()(agent.actor.sample)
    return {
        Case("Diffusion-QL, actor.sample, 5 steps"): bind(sample, torch.randn(1, OBS_DIM)),
        Case("Diffusion-QL, sample_action, best of 50"): bind(
            agent.sample_action, np.random.randn(OBS_DIM)
        ),
    }


def bind(act: Callable[[Any], Any], observations: Any) -> Callable[[], Any]:
    return lambda: act(observations)


# How ------------------------------------------------------------------------------------------


def measure(cases: dict[Case, Callable[[], Any]], rounds: int, calls: int) -> dict[Case, Any]:
    """Microseconds of every call, (rounds, calls) a case."""
    times = {case: np.zeros((rounds, calls)) for case in cases}
    for i in range(rounds):
        for case, act in cases.items():
            for _ in range(3):  # after another's turn the caches are cold
                act()
            for j in range(calls):
                begin = time.perf_counter_ns()
                act()
                times[case][i, j] = (time.perf_counter_ns() - begin) / 1e3 / case.actions
    return times


def ratio(times: dict[Case, Any], case: Case, base: Case) -> float:
    """How `case` compares with `base`, robust against a machine that slows down for a while."""
    return float(np.median(np.median(times[case], 1) / np.median(times[base], 1)))


def row(case: Case, times: dict[Case, Any]) -> dict[str, Any]:
    values = times[case]
    return {
        **case._asdict(),
        "median_us": float(np.median(values)),
        "p99_us": float(np.quantile(values, 0.99)),
        "of_actor_sample": ratio(times, case, SAMPLE) if SAMPLE in times else None,
    }


def judge(claim: Claim, times: dict[Case, Any]) -> dict[str, Any]:
    """Whether a claim holds, with the numbers."""
    share, median = ratio(times, claim.case, claim.base), float(np.median(times[claim.case]))
    holds = share <= claim.fraction and (claim.ceiling is None or median <= claim.ceiling)
    case = f"{claim.case.what} ({claim.case.network})"
    asked = f"at most {claim.fraction:.3f} of {claim.base.what}"
    if claim.ceiling is not None:
        asked += f", at most {claim.ceiling:.0f} µs"
    return {"case": case, "asked": asked, "ratio": share, "median_us": median, "holds": holds}


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "# Latency of an action",
        "",
        "| | network | observations | median, µs | 99th percentile, µs | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        share = "–" if r["of_actor_sample"] is None else f"{r['of_actor_sample']:.2f}"
        lines.append(
            f"| {r['what']} | {r['network']} | {r['observations']} | {r['median_us']:.0f} "
            f"| {r['p99_us']:.0f} | {share} |"
        )
    lines.append("")
    for c in result["claims"]:
        verdict = "holds" if c["holds"] else "does not hold"
        lines.append(f"- {c['case']}: {c['asked']}: {c['ratio']:.3f}, {verdict}.")
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    lines += [
        "",
        f"Hopper's sizes, {OBS_DIM} observations and {ACTION_DIM} actions. `policy.act` goes from "
        "NumPy to NumPy; ONNX is the exported policy under onnxruntime, its noise drawn by NumPy "
        "in the measured time; Ding & Jin's `actor.sample`, which the ratios are of, goes from "
        "tensor to tensor.",
        "",
        f"Written by `benchmarks/latency.py` on {result['date']}: {result['rounds']} turns of "
        f"{result['calls']} calls; {result['machine']}, shared with other work, which the 99th "
        f"percentiles show; {versions}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
