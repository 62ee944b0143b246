"""What choosing a checkpoint without a simulator costs: `cmpolicy.select` on finished runs.

    python benchmarks/selection.py runs=[RUN,RUN] [select=[updates=20000]] [out=FOLDER]

Each run's policies are valued by fitted Q evaluation on its data. Rows go to OUT/selection.csv as
they come, a table to OUT/selection.md; a run that is there is not valued again. Regret is the
best score among the policies compared less that of the policy chosen, in points of normalised
score, by the evaluations during training.
"""

from __future__ import annotations

import csv
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from command_line import read_options

from cmpolicy.training.machine import cpu_name

HERE = Path(__file__).resolve().parent
DEFAULTS = {"runs": [], "select": [], "out": str(HERE / "results")}
COLUMNS = (
    *("set", "agent", "seed", "policies", "chosen_step", "chosen", "last", "best", "best_step"),
    *("regret", "regret_of_last", "regret_of_random", "rank_correlation"),
    *("settings", "machine", "versions", "date"),
)


def main(arguments: list[str]) -> int:
    options = read_options(arguments, DEFAULTS)
    table = Path(options["out"]) / "selection.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    rows = list(csv.DictReader(table.open())) if table.exists() else []
    there = {(row["set"], row["agent"], row["seed"]) for row in rows}
    for run in map(Path, options["runs"]):
        results = json.loads((run / "results.json").read_text())
        key = (results["task"], results["agent"], str(results["seed"]))
        if key in there:
            continue
        command = [sys.executable, "-m", "cmpolicy.select", f"run='{run}'", *options["select"]]
        subprocess.run(command, check=True)
        selection = json.loads((run / "selection.json").read_text())
        rows.append({**dict(zip(COLUMNS, key, strict=False)), **row_of(selection, results)})
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        table.with_suffix(".md").write_text(page(rows))
    return 0


def row_of(selection: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """The columns of a run that are not its name."""
    policies = [p for p in selection["policies"] if p["score"] is not None]
    scores = np.array([p["score"] for p in policies])
    values = np.array([p["value"] for p in policies])
    ranks = [np.argsort(np.argsort(x)) for x in (scores, values)]
    chosen = next(p for p in policies if p["step"] == selection["chosen"])
    settings = {k: v for k, v in selection["settings"].items() if k not in ("run", "held_out")}
    return {
        "policies": len(policies),
        "chosen_step": chosen["step"],
        "chosen": f"{chosen['score']:.2f}",
        "last": f"{scores[-1]:.2f}",
        "best": f"{scores.max():.2f}",
        "best_step": policies[int(scores.argmax())]["step"],
        "regret": f"{scores.max() - chosen['score']:.2f}",
        "regret_of_last": f"{scores.max() - scores[-1]:.2f}",
        "regret_of_random": f"{scores.max() - scores.mean():.2f}",
        "rank_correlation": f"{np.corrcoef(*ranks)[0, 1]:.2f}",
        "settings": " ".join(f"{k}={v}" for k, v in settings.items()),
        "machine": cpu_name(),
        "versions": " ".join(f"{k}={v}" for k, v in results["versions"].items()),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def page(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    columns = ("policies", "chosen", "last", "best", "regret", "regret_of_last")
    columns = (*columns, "regret_of_random", "rank_correlation")
    lines = [
        "# A choice of checkpoint without a simulator",
        "",
        "`cmpolicy.select` values the last policies of a run by fitted Q evaluation on the run's",
        "own data. Scores are those of the evaluations during training; regrets are in points of",
        "normalised score against the best of the policies compared. By: "
        "`python benchmarks/selection.py runs=[RUN,RUN]`.",
        "",
        "| set | agent | seed | " + " | ".join(c.replace("_", " ") for c in columns) + " |",
        "|" + "---|" * (len(columns) + 3),
    ]
    for row in sorted(rows, key=lambda r: (r["agent"], r["set"], int(r["seed"]))):
        cells = [row["set"], row["agent"], row["seed"], *(row[c] for c in columns)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    means = {c: np.mean([float(row[c]) for row in rows]) for c in columns if c.startswith("regret")}
    lines += ["", "Means: " + ", ".join(f"{c.replace('_', ' ')} {m:.1f}" for c, m in means.items())]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
