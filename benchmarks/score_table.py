"""Write a table of runs: python benchmarks/score_table.py NAME [LABEL=]RUN [[LABEL=]RUN …]

Reads each run's results.json and writes benchmarks/results/NAME.md and NAME.json. The last and
the best checkpoint stand apart; the best of many evaluations was evaluated again on fresh seeds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from command_line import show_help

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "data",
    "transitions",
    "agent",
    "updates",
    "seed",
    "data's mean",
    "last",
    "best",
    "updates/s",
)


def row_of(results: dict[str, Any]) -> dict[str, str]:
    """The cells of one run; one that was stopped has an evaluation during training at most."""
    dataset = results["dataset"]
    source = "" if dataset["comparable"] else ", not comparable"
    return {
        "data": f"{dataset['dataset_id']} ({dataset['source']}{source})",
        "transitions": f"{dataset['transitions']:,}",
        "agent": results["label"],
        "updates": f"{results['last']['step']:,}" if "last" in results else "stopped",
        "seed": str(results["seed"]),
        "data's mean": f"{dataset['mean_normalized_score']:.1f}",
        "last": score(results.get("last")) if "last" in results else stopped(results),
        "best": score(results.get("best")),
        "updates/s": f"{results['updates_per_second']:.0f}",
    }


def score(part: dict[str, Any] | None) -> str:
    """Mean ± standard error (episodes)."""
    if part is None:
        return "missing"
    mean, error = part["normalized_score"], part["score_standard_error"]
    step = f", step {part['step']:,}" if "chosen_by" in part else ""
    return f"{mean:.1f} ± {error:.1f} ({part['episodes']} episodes{step})"


def stopped(results: dict[str, Any]) -> str:
    """The last evaluation of a run that did not reach its end."""
    if not results["evaluations"]:
        return "missing"
    e = {key.removeprefix("eval/"): value for key, value in results["evaluations"][-1].items()}
    return f"stopped; at step {e['step']:,}: {score({**e, 'episodes': int(e['episodes'])})}"


def main(name: str, runs: list[str]) -> None:
    """Write both files."""
    results = []
    for labelled in runs:
        label, _, run = labelled.rpartition("=")
        result = json.loads((Path(run) / "results.json").read_text())
        results.append({"label": label or result["agent"], **result})
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for result in results:
        row = row_of(result)
        lines.append("| " + " | ".join(row[c] for c in COLUMNS) + " |")
    machines = dict.fromkeys(f"{r['machine']}, {r['device']}" for r in results)
    versions = dict.fromkeys(f"{k} {v}" for r in results for k, v in r["versions"].items())
    dates = sorted(r["date"][:10] for r in results)
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    lines += [
        "",
        "Scores are normalised with D4RL's reference returns, ± standard error over episodes.",
        f"Written by `benchmarks/score_table.py` from runs of {when}; "
        f"{'; '.join(machines)}; {', '.join(versions)}.",
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
    for result in results:
        result["dataset"].pop("path", None)  # a path of the machine says nothing to a reader
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    show_help(sys.argv)
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
