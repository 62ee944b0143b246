"""Every loss on every one-dimensional toy, several seeds: benchmarks/results/toys.md and .png.

    python benchmarks/toys.py                    all, with the settings of configs/loss/
    python benchmarks/toys.py quick=true         a minute, to see that it works
    python benchmarks/toys.py losses=[scd,sct] toys=[three_gmm] seeds=3
    python benchmarks/toys.py losses=[cd] toys=[moving_two_gmm]      with a condition, by its name

A row is one run of the train command. Rows are kept in results/toys.csv as they come, and a row
that is there is not trained again, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import datetime
import json
import math
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from command_line import read_options
from csv_rows import append_row, read_rows

HERE = Path(__file__).resolve().parent
LOSSES = ["ct", "ict", "ect", "ct_continuous", "sct", "cd", "cd_continuous", "scd"]
TOYS = ["single_gaussian", "two_gmm", "uneven_two_gmm", "three_gmm"]
STEPS = ("1 step", "2 steps", "4 steps", "20 steps", "teacher, Heun")
MEASURES = ("w1", "kl", "std_ratio", "p_below_0")
QUICK = ("steps=80", "eval.every=80", "eval.samples=2000")


def main(arguments: list[str]) -> None:
    options = read_options(arguments, {
        "losses": LOSSES, "toys": TOYS, "seeds": 5, "quick": False, "out": str(HERE / "results"),
        "train": [],
    })  # fmt: skip
    out = Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    extra = [*(QUICK if options["quick"] else ()), *options["train"]]
    for seed in range(options["seeds"]):
        for toy in options["toys"]:
            for loss in options["losses"]:
                add_row(out, toy, loss, seed, extra, options["quick"])
                report(out)


def add_row(out: Path, toy: str, loss: str, seed: int, extra: list[str], quick: bool) -> None:
    """Train one run, unless its row is there, and append the row."""
    rows = read_rows(out / "toys.csv")
    if any((r["toy"], r["loss"], int(r["seed"])) == (toy, loss, seed) for r in rows):
        return
    run = out / "runs" / f"{toy}-{loss}-{seed}"
    overrides = [f"toy={toy}", f"loss={loss}", f"seed={seed}", f"run_dir={run}", "threads=1"]
    if quick:
        distils = loss in ("cd", "cd_continuous", "scd")
        overrides.append(f"loss.teacher_steps={40 if distils else 0}")
    command = [sys.executable, "-m", "cmpolicy.train", "--config-name", "toy", *overrides, *extra]
    if (run / "config.yaml").exists():
        command = [sys.executable, "-m", "cmpolicy.train", f"resume={run}"]
    print(" ".join(command[3:]), flush=True)
    begin = time.perf_counter()
    subprocess.run([*command, "progress=false"], check=True)
    wall = time.perf_counter() - begin
    results = json.loads((run / "results.json").read_text())
    row: dict[str, Any] = {"toy": toy, "loss": loss, "seed": seed, "wall_seconds": round(wall, 1)}
    for sampler in STEPS:
        for measure in MEASURES:
            value = results["last"]["distances"].get(sampler, {}).get(measure, math.nan)
            row[f"{sampler} {measure}"] = round(value, 5)
    row |= {
        "updates_per_second": results["updates_per_second"],
        "date": results["date"],
        "torch": version("torch"),
        "cmpolicy": version("cmpolicy"),
        "machine": results["machine"],
    }
    append_row(out / "toys.csv", row)


def report(out: Path) -> None:
    """toys.md, toys.json and toys.png from the rows so far."""
    rows = read_rows(out / "toys.csv")
    groups = {
        (toy, loss): [r for r in rows if (r["toy"], r["loss"]) == (toy, loss)]
        for toy in dict.fromkeys([*TOYS, *(r["toy"] for r in rows)])
        for loss in LOSSES
    }
    summary = [
        {"toy": toy, "loss": loss, **summarize(group)}
        for (toy, loss), group in groups.items()
        if group
    ]
    (out / "toys.json").write_text(json.dumps({"summary": summary, "rows": rows}, indent=1) + "\n")
    (out / "toys.md").write_text(markdown(rows, summary))
    draw(out, summary)


def summarize(rows: list[dict[str, str]]) -> dict[str, Any]:
    """Mean and standard error over seeds of everything measured, and the median of the time."""
    found: dict[str, Any] = {"seeds": len(rows)}
    found["wall_seconds"] = float(np.median([float(r["wall_seconds"]) for r in rows]))
    for key in [k for k in rows[0] if k.rpartition(" ")[2] in MEASURES]:
        values = np.array([float(r[key]) for r in rows])
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        found[key] = [float(values.mean()), float(error)]
    return found


def markdown(rows: list[dict[str, str]], summary: list[dict[str, Any]]) -> str:
    """The table, one block a toy."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="minutes")
    lines = [
        "# Losses on one-dimensional toys",
        "",
        f"Written by `benchmarks/toys.py` on {now}; {len(rows)} runs, torch {rows[-1]['torch']}, "
        f"{rows[-1]['machine']}. Mean ± standard error over seeds; last checkpoint, 20,000 samples "
        "against the exact quantiles; with a condition (a label, or a number that moves the means) "
        "the mean over conditions, 20,000 samples each. KL is of a 200-bin histogram, the truth's "
        "from the samples'. "
        "Seconds are the median of whole commands, imports and pictures included, on a machine "
        "that other work shared.",
    ]
    for toy in dict.fromkeys(s["toy"] for s in summary):
        lines += [
            "",
            f"## {toy}",
            "",
            "| loss | seeds | W1, 1 step | KL, 1 step | W1, 2 | W1, 4 | W1, 20 | std ratio, 20 "
            "| P(x<0) | teacher W1 | s |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for s in (s for s in summary if s["toy"] == toy):
            cells = [
                *(s[key] for key in ("1 step w1", "1 step kl", "2 steps w1", "4 steps w1")),
                *(s[key] for key in ("20 steps w1", "20 steps std_ratio", "1 step p_below_0")),
                s["teacher, Heun w1"],
            ]
            numbers = " | ".join(number(c) for c in cells)
            lines.append(f"| {s['loss']} | {s['seeds']} | {numbers} | {s['wall_seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def number(cell: list[float]) -> str:
    mean, error = cell
    if math.isnan(mean):
        return "–"
    return f"{mean:.3f}" if math.isnan(error) else f"{mean:.3f} ± {error:.3f}"


def draw(out: Path, summary: list[dict[str, Any]]) -> None:
    """One-step W1 of every loss, a panel a toy of TOYS, seeds as error bars."""
    from matplotlib.figure import Figure

    toys = list(dict.fromkeys(s["toy"] for s in summary if s["toy"] in TOYS))
    if not toys:
        return
    figure = Figure(figsize=(3.4 * len(toys) + 1, 3.6), layout="constrained")
    for axes, toy in zip(figure.subplots(1, len(toys), squeeze=False)[0], toys, strict=True):
        chosen = [s for s in summary if s["toy"] == toy]
        names = [s["loss"] for s in chosen]
        for k, (sampler, colour) in enumerate((("1 step", "#3b7dd8"), ("20 steps", "#8c8c8c"))):
            mean, error = np.array([s[f"{sampler} w1"] for s in chosen]).T
            places = np.arange(len(names)) + 0.36 * k - 0.18
            axes.barh(places, mean, 0.34, xerr=np.nan_to_num(error), color=colour, label=sampler)
        axes.set_yticks(np.arange(len(names)), names)
        axes.invert_yaxis()
        axes.set(title=toy, xlabel="W1 to the truth")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    figure.savefig(out / "toys.png", dpi=130)


if __name__ == "__main__":
    main(sys.argv[1:])
