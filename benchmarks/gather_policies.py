"""Gather the trained policies of runs in one folder, with cards and checksums, ready to upload.

    python benchmarks/gather_policies.py runs=[runs/a,runs/b] out=policies

`runs` are run directories, or folders of them; those that are not finished are left out and named.
`out` gets a folder TASK-AGENT-seedN a run with policy.safetensors, README.md and results.json; an
index README.md; and SHA256SUMS, which `sha256sum -c SHA256SUMS` checks.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from command_line import read_options

from cmpolicy import ConsistencyPolicy
from cmpolicy.policy.hub import POLICY

OPTIONS: dict[str, Any] = {"runs": ["runs"], "out": "policies"}


def finished_runs(places: Sequence[str | Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Run directories of agents below `places` that have ended, with their results."""
    found = {path for place in places for path in Path(place).rglob("results.json")}
    for path in sorted(found):
        results = json.loads(path.read_text())
        if "agent" not in results or "seeds" in results:  # a toy, or the means of several seeds
            continue
        if results.get("finished") and (path.parent / POLICY).is_file():
            yield path.parent, results
        else:
            print(f"left out, not finished: {path.parent}", file=sys.stderr)


def gather(places: Sequence[str | Path], out: Path) -> list[Path]:
    """Write the folder of each run and the index; give the folders.

    Two runs of one task, agent and seed are an error, since one would replace the other.
    """
    folders: dict[str, Path] = {}
    rows = ["| policy | score | data | comparable |", "|---|---|---|---|"]
    for run, results in finished_runs(places):
        name = f"{results['task']}-{results['agent']}-seed{results['seed']}"
        if name in folders:
            sys.exit(f"error: {run} is a second run of {name}; give runs=[…] without one of them")
        policy = ConsistencyPolicy.load(run / POLICY)
        folders[name] = policy.save_pretrained(out / name, results=results, name=name)
        score, data = results["last"].get("normalized_score"), results["dataset"]
        said = "–" if score is None else f"{score:.1f}"
        compares = "yes" if data["comparable"] else "no"
        rows.append(f"| [{name}]({name}) | {said} | {data['dataset_id']} | {compares} |")
    if not folders:
        sys.exit(f"error: no finished run below {', '.join(map(str, places))}")
    head = (
        "# Policies\n\nScores are those of the last checkpoints. `sha256sum -c SHA256SUMS` checks "
    )
    (out / "README.md").write_text(head + "the files.\n\n" + "\n".join(rows) + "\n")
    write_checksums(out)
    return list(folders.values())


def write_checksums(out: Path) -> None:
    """SHA256SUMS of all files below a folder, as `sha256sum` writes it."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(out)}\n"
        for path in files
        if path.name != "SHA256SUMS"
    ]
    (out / "SHA256SUMS").write_text("".join(sums))


def main() -> None:
    options = read_options(sys.argv[1:], OPTIONS)
    for folder in gather(options["runs"], Path(options["out"])):
        print(folder)


if __name__ == "__main__":
    main()
