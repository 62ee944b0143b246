"""What further network calls at evaluation are worth: benchmarks/results/network_calls.{md,json}

    python benchmarks/network_calls.py runs=[RUN,RUN,…] [steps=[1,2,4]] [episodes=40] [seed=7]

Runs of agents that learn any number of calls, such as `bc` and `weighted_bc`; `ac` has learned one.
Each run's last checkpoint is rolled out with one network call an action and with more, on the same
episodes. An action is taken as training evaluates it, by the agent's `mode_of`.
"""

from __future__ import annotations

import datetime
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import read_options

from cmpolicy.errors import InputError
from cmpolicy.rl.score import evaluate_agent
from cmpolicy.rl.task import act_with
from cmpolicy.rl.trained_agent import load_agent, read_record
from cmpolicy.training.machine import machine_name
from cmpolicy.training.run_directory import RunDirectory

HERE = Path(__file__).resolve().parent
CPU = torch.device("cpu")
DEFAULTS: dict[str, Any] = {
    "runs": [], "steps": [1, 2, 4], "episodes": 40, "seed": 7, "out": str(HERE / "results"),
}  # fmt: skip
VERSIONS = ("cmpolicy", "torch", "numpy", "gymnasium", "mujoco")


def main(arguments: list[str]) -> None:
    options = read_options(arguments, DEFAULTS)
    if not options["runs"]:
        sys.exit("no runs: give runs=[RUN,RUN,…]")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for run in options["runs"]:
        try:
            rows.append(row_of(RunDirectory.existing(run), options))
        except InputError as error:
            sys.exit(f"{run}: {error}")
        report(rows, options)
        print(line_of(rows[-1], options["steps"]), flush=True)


def row_of(run: RunDirectory, options: dict[str, Any]) -> dict[str, Any]:
    """One run's scores, by the number of network calls."""
    recorded, results = read_record(run), run.read_results()
    agent, step = load_agent(run, recorded.spaces, "last", CPU)
    scores = {}
    for steps in options["steps"]:
        bind = act_with(agent, None, None, steps)
        score = evaluate_agent(
            bind, recorded.env, recorded.references, options["episodes"], options["seed"], CPU
        )
        scores[str(steps)] = [score.normalized_score, score.score_standard_error]
    return {
        "task": results["task"],
        "agent": results["agent"],
        "seed": results["seed"],
        "updates": step,
        "mode_of": agent.config.mode_of,
        "scores": scores,
    }


def line_of(row: dict[str, Any], steps: list[int]) -> str:
    """A line of the table."""
    cells = [row["task"], row["agent"], str(row["seed"]), f"{row['updates']:,}"]
    for k in steps:
        mean, error = row["scores"][str(k)]
        cells.append(f"{mean:.1f} ± {error:.1f}")
    return f"| {' | '.join(cells)} |"


def report(rows: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """Write the table and its figures."""
    steps, out = options["steps"], Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    names = [f"{k} call{'s' if k > 1 else ''}" for k in steps]
    means = {k: float(np.mean([row["scores"][str(k)][0] for row in rows])) for k in steps}
    best = max(means.values())
    behind = ", ".join(
        f"{name} {means[k] - best:+.1f}" for k, name in zip(steps, names, strict=True)
    )
    now = datetime.datetime.now().astimezone().isoformat(timespec="minutes")
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    modes = ", ".join(sorted({str(row["mode_of"]) for row in rows}))
    lines = [
        "# Network calls an action",
        "",
        f"| data | agent | seed | updates | {' | '.join(names)} |",
        "|---" * (4 + len(steps)) + "|",
        *(line_of(row, steps) for row in rows),
        f"| mean | | | | {' | '.join(f'{means[k]:.1f}' for k in steps)} |",
        "",
        f"On average, against the best: {behind}.",
        "",
        f"Normalised scores ± standard error, {options['episodes']} episodes each, the same for "
        f"every column; last checkpoints; the mode of {modes} samples acts. Written by "
        f"`benchmarks/network_calls.py` on {now}; {machine_name()}; {versions}.",
    ]
    (out / "network_calls.md").write_text("\n".join(lines) + "\n")
    (out / "network_calls.json").write_text(
        json.dumps({"date": now, "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
