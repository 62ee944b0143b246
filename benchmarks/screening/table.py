"""Tables of screening.csv: python benchmarks/screening/table.py

Means over seeds of each variant's score by rule, with the seeds' spread, in results/screening.md.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"
sys.path.insert(0, str(Path(__file__).parents[1]))
from csv_rows import read_rows  # noqa: E402

Row = dict[str, str]
TITLES = {
    "critics": "One step along a critic's gradient, from the mode of 32 samples of a clone",
    "variants": "Variants of the agent on the choosing sets",
    "sets": "The chosen setting on the six sets made as D4RL's are",
}


def main() -> None:
    rows = read_rows(RESULTS / "screening.csv")
    text = [
        "# Screening",
        "",
        "Written by `python benchmarks/screening/table.py` from screening.csv.",
        "",
    ]
    text += ["Normalised scores, the mean over seeds ± half their range; 10 episodes a seed.", ""]
    for stage, title in TITLES.items():
        own = [row for row in rows if row["stage"] == stage]
        if own:
            text += [f"## {title}", "", origin(own), "", *tables(stage, own)]
    (RESULTS / "screening.md").write_text("\n".join(text) + "\n")


def origin(rows: list[Row]) -> str:
    """Where rows come from."""
    updates = sorted({int(row["updates"]) for row in rows})
    device, torch = rows[0]["device"], rows[0]["torch"]
    lengths = " to ".join(f"{u:,}" for u in dict.fromkeys((updates[0], updates[-1])))
    return f"{lengths} updates of batches of 256, {device}, torch {torch}, {rows[0]['date'][:10]}."


def tables(stage: str, rows: list[Row]) -> list[str]:
    """By critics: a table a set, a column a rule. Else a table a rule, a column a set."""
    columns, split = ("rule", "set") if stage == "critics" else ("set", "rule")
    text = []
    for part in dict.fromkeys(row[split] for row in rows):
        own = [row for row in rows if row[split] == part]
        heads = list(dict.fromkeys(row[columns] for row in own))
        text += [f"**{part}**", "", "| |" + "".join(f" {h} |" for h in heads)]
        text += ["|---|" + "---|" * len(heads)]
        cells: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in own:
            cells[label(row)][row[columns]].append(float(row["score"]))
        text += [f"| {n} |" + "".join(f" {cell(c[h])} |" for h in heads) for n, c in cells.items()]
        text.append("")
    return text


def label(row: Row) -> str:
    """The variant, with the network where it is not the usual one."""
    network = []
    if row["bins"] != "0":
        network.append("cross-entropy")
    if row["critic_layers"] != "3":
        network.append(f"{row['critic_layers']} layers")
    if row["critics"] != "2":
        network.append(f"{row['critics']} critics")
    return ", ".join([row["name"], *network])


def cell(scores: list[float]) -> str:
    """Mean ± half the range over seeds."""
    if not scores:
        return "–"
    spread = f" ± {(max(scores) - min(scores)) / 2:.1f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.1f}{spread}"


if __name__ == "__main__":
    main()
