"""Screening: many variants of the agent, or many critics, trained as one batched model.

    python benchmarks/screening/screen.py data=DIR stage=critics
    python benchmarks/screening/screen.py data=DIR stage=variants seconds=120
    python benchmarks/screening/screen.py data=DIR stage=sets

    data      a folder of D4RL-layout files; hopper-mixed.hdf5 and sac/*.hdf5 are read
    stage     critics: does one step along a critic's gradient help a clone? Discount × target ×
              network; variants: radius, weights, traces and horizons of the agent on the choosing
              sets; sets: the chosen setting and its baselines on the six sets made as D4RL's are
    updates   of each replica, at most; seconds: on a GPU, of training, which bounds the updates
    episodes  of each evaluation
    out       the table, a CSV file to which rows are added

On an H200, 84 replicas with two critics each take 4 ms an update; on one CPU core one replica
takes 20 to 40. What a row says of a variant is one replica's score after a short training:
`benchmarks/offline_rl.py` trains the package's agent for the tables.
"""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acting import evaluate
from sets import PaddedSets
from training import Training
from variants import Shape, Variant

sys.path.insert(0, str(Path(__file__).parents[1]))
from command_line import read_options
from csv_rows import append_row

HERE = Path(__file__).resolve().parent
CHOOSING = ("sac/hopper-medium", "sac/halfcheetah-medium", "hopper-mixed")
REPORTING = tuple(
    f"sac/{robot}-{behaviour}"
    for robot in ("hopper", "halfcheetah", "walker2d")
    for behaviour in ("medium", "medium-replay")
)
STEPS = ["clone:sample", "clone:mode", "clone:mode~0.1"] + [
    f"clone:mode{sign}{length}" for length in (0.05, 0.1, 0.2) for sign in "+-"
]
RULES = ["actor:sample", "actor:zero", "actor:mode", "clone:mode", "clone:sample"]
Settings = dict[str, Any]


def critics() -> Iterable[tuple[Shape, dict[str, Settings]]]:
    """By network: targets × horizons, a trace for each half of the training."""
    targets = {"MC": (1, 1), "TD": (0, 0), "TD(0.95)": (0.95, 0.95), "MC, then TD": (1, 0)}

    def of(discounts: Iterable[float], names: Iterable[str]) -> dict[str, Settings]:
        return {
            f"{name}, γ = {g}": {
                "discount": g,
                "warm_trace": targets[name][0],
                "trace": targets[name][1],
            }
            for g in discounts
            for name in names
        }

    yield Shape(warm_up=1.0), of((0.99, 0.995, 0.998), targets)
    yield Shape(warm_up=1.0, bins=101), of((0.99, 0.998), ("MC", "MC, then TD"))
    yield Shape(warm_up=1.0, critic_layers=2), of((0.998,), ("MC", "MC, then TD"))
    yield Shape(warm_up=1.0, critics=10), of((0.998,), ("MC", "MC, then TD"))


def variants() -> Iterable[tuple[Shape, dict[str, Settings]]]:
    """What the agent is made of, one thing after the other."""
    weighted = {"return_temperature": 0.1}
    settings: dict[str, Settings] = {
        "radius 0.1": {},
        "radius 0.2": {"radius": 0.2},
        **{f"α 0.1, radius {r}": {"radius": r, **weighted} for r in (0.05, 0.1, 0.2, 0.3)},
        **{
            f"α 0.1, radius 0.2, γ {g}": {"radius": 0.2, "discount": g, **weighted}
            for g in (0.99, 0.995)
        },
        **{
            f"α 0.1, radius 0.2, λ {trace}": {"radius": 0.2, "trace": trace, **weighted}
            for trace in (0.9, 1.0)
        },
        **{
            f"α 0.1, radius {r} by returns": {"radius": r, "unit": "return", **weighted}
            for r in (1.0, 3.0)
        },
        "α 0.1, half the spread": {"spread_radius": 0.5, **weighted},
        "α 0.1, radius 0.2, penalty 0.3": {"radius": 0.2, "penalty": 0.3, **weighted},
        "α 0.1, radius 0.2, mean of critics": {"radius": 0.2, "pessimism": 0.0, **weighted},
        "α 0.3, radius 0.2": {"radius": 0.2, "return_temperature": 0.3},
        "α 0.3, radius 0.2, λ 0.9": {"radius": 0.2, "return_temperature": 0.3, "trace": 0.9},
        "α 0.1, β 1": {"advantage_weight": 1.0, **weighted},
    }
    for beta, radius in ((1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2), (3, 0.2)):
        settings[f"β {beta}, radius {radius}"] = {"advantage_weight": beta, "radius": radius}
    for beta in (1, 2):
        both = {"advantage_weight": beta, "return_temperature": 0.3, "radius": 0.2}
        settings[f"α 0.3, β {beta}, radius 0.2"] = both
    yield Shape(), settings


def final() -> Iterable[tuple[Shape, dict[str, Settings]]]:
    """The chosen setting, what it is without return weights, and cloning."""
    yield (
        Shape(),
        {
            "α 0.3, β 1, radius 0.1": {"advantage_weight": 1.0, "return_temperature": 0.3},
            "β 1, radius 0.1": {"advantage_weight": 1.0},
            "cloning": {"radius": 0.001},
            "α 0.1, cloning": {"return_temperature": 0.1, "radius": 0.001},
        },
    )


STAGES = {
    "critics": (critics, CHOOSING, STEPS),
    "variants": (variants, CHOOSING, RULES),
    "sets": (final, REPORTING, RULES),
}


def main(arguments: list[str]) -> None:
    defaults = {
        "data": None,
        "stage": "variants",
        "updates": 40_000,
        "seconds": 100,
        "seeds": 2,
        "episodes": 10,
        "out": str(HERE.parent / "results" / "screening.csv"),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }
    options = read_options(arguments, defaults)
    if options["data"] is None or options["stage"] not in STAGES:
        sys.exit(f"give data=DIR and stage= one of {', '.join(STAGES)}")
    torch.set_float32_matmul_precision("high")
    groups, sets, rules = STAGES[options["stage"]]
    files = {name: Path(options["data"]) / f"{name}.hdf5" for name in sets}
    data = PaddedSets(files, options["device"])
    for shape, settings in groups():
        chosen = [
            Variant(name, seed, label, **setting)
            for label, setting in settings.items()
            for name in sets
            for seed in range(options["seeds"])
        ]
        replicas = Training(chosen, data, options["updates"], shape, seed=1)
        if options["device"] == "cuda":
            shorten(replicas, options["seconds"])
        train(replicas)
        scores = evaluate(replicas, rules, options["episodes"], seed=100)
        write(replicas, scores, options)


def train(replicas: Training) -> None:
    """To the end; a batch that only warms up has another trace in its second half."""
    if replicas.warm_up >= replicas.total:
        replicas.train(replicas.total // 2 - replicas.step)
        replicas.warm_trace.copy_(replicas.trace)
    replicas.train(replicas.total - replicas.step)


def shorten(replicas: Training, seconds: float) -> None:
    """Let the training end within `seconds`, by the time of its first updates."""
    replicas.train(30)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    replicas.train(200)
    torch.cuda.synchronize()
    each = (time.perf_counter() - begin) / 200
    warm = replicas.shape.warm_up
    updates = int(seconds / each / (warm + (1 - warm) * 1.7))  # the rest has actors to train
    replicas.set_length(max(2_000, min(replicas.total, updates)))
    print(f"{replicas.count} replicas, {1e3 * each:.2f} ms an update, {replicas.total:,} updates")


def write(replicas: Training, scores: dict[str, np.ndarray], options: Settings) -> None:
    """A row for each replica and rule; and what they came to, on the screen."""
    device = torch.cuda.get_device_name() if options["device"] == "cuda" else "cpu"
    shape = asdict(replicas.shape)
    for rule, score in scores.items():
        print(rule, {v.name: round(float(score[i].mean()), 1)
                     for i, v in enumerate(replicas.variants)})  # fmt: skip
        for i, variant in enumerate(replicas.variants):
            row = {
                "stage": options["stage"],
                **asdict(variant),
                "critics": shape["critics"],
                "critic_layers": shape["critic_layers"],
                "bins": shape["bins"],
                "updates": replicas.total,
                "rule": rule,
                "score": round(float(score[i].mean()), 2),
                "error": round(float(score[i].std(ddof=1) / score.shape[1] ** 0.5), 2),
                "episodes": score.shape[1],
                "device": device,
                "torch": torch.__version__,
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            }
            append_row(Path(options["out"]), row)


if __name__ == "__main__":
    main(sys.argv[1:])
