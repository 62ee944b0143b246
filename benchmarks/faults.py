"""What faults do to runs and readers: benchmarks/results/faults.md and faults.csv.

    python benchmarks/faults.py [kills=360] [disks=50] [flips=200] [inputs=6000] [seed=0]
                                [kinds=[bc,ac,online,seeds,toy,images]] [out=FOLDER] [work=FOLDER]

Kills: a run is killed by SIGKILL at up to five random moments, goes on each time, and must end in
the same bits as one that never was. Disks: a write beyond a random number of bytes fails once.
Flips: one bit of a checkpoint or a policy. Inputs: edited files for every reader, and command
lines, made with Hypothesis. All counts have rows in faults.csv; those that are there are not made
again, so that a run that was stopped goes on. Linux and macOS.
"""

from __future__ import annotations

import datetime
import logging
import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from command_line import read_options
from csv_rows import append_row, read_rows
from faults_fuzz import COMMANDS, fuzz_command, fuzz_reader
from faults_inputs import readers
from faults_kills import RUNS, full_disk, import_everything, killed_run, uninterrupted

from cmpolicy import ConsistencyPolicy
from cmpolicy.errors import InputError
from cmpolicy.training.checkpoint import load_state
from cmpolicy.training.machine import machine_name
from cmpolicy.training.run_directory import RunDirectory

HERE = Path(__file__).resolve().parent
DEFAULTS: dict[str, Any] = {
    **{"kills": 360, "disks": 50, "flips": 200, "inputs": 6000, "seed": 0, "kinds": list(RUNS)},
    **{"out": str(HERE / "results"), "work": str(Path(tempfile.gettempdir()) / "cmpolicy-faults")},
}
COLUMNS = ("part", "kind", "number", "count", "wrong")


def main(arguments: list[str]) -> None:
    options = read_options(arguments, DEFAULTS)
    logging.disable(logging.WARNING)  # of the files that are read
    import_everything()
    work, table = Path(options["work"]), Path(options["out"]) / "faults.csv"
    work.mkdir(parents=True, exist_ok=True)
    fuzz(table, work, options["inputs"], options["seed"])
    flip_bits(table, work, options["flips"], options["seed"])
    for part, function in (("disks", full_disk), ("kills", killed_run)):
        until = options[part]
        while (done := counted(table, part)) < until:
            kind = least_tried(table, part, options["kinds"])
            number = options["seed"] + len(rows_of(table, part, kind))
            add(table, part, kind, number, function(kind, work, number))
            print(f"{part}: {done} of {until}", flush=True)
    (Path(options["out"]) / "faults.md").write_text(markdown(table))
    wrong = [row for row in read_rows(table) if row["wrong"]]
    print(f"{len(wrong)} rows are wrong" if wrong else "nothing is wrong")
    sys.exit(1 if wrong else 0)


def rows_of(table: Path, part: str, kind: str | None = None) -> list[dict[str, str]]:
    """The rows of a part, or of one kind of it."""
    return [r for r in read_rows(table) if r["part"] == part and kind in (None, r["kind"])]


def counted(table: Path, part: str, kind: str | None = None) -> int:
    """The sum of their counts."""
    return sum(int(row["count"]) for row in rows_of(table, part, kind))


def least_tried(table: Path, part: str, kinds: list[str]) -> str:
    """The kind of run with the lowest count so far."""
    return min(kinds, key=lambda kind: counted(table, part, kind))


def add(table: Path, part: str, kind: str, number: int, result: dict[str, Any]) -> None:
    """Write a row, and print what was wrong."""
    wrong = result.pop("wrong")
    wrong = wrong if isinstance(wrong, str) else " | ".join(dict.fromkeys(wrong))[:2000]
    row = {"part": part, "kind": kind, "number": number, **result, "wrong": wrong}
    append_row(table, row)
    if wrong:
        print(f"WRONG: {part}, {kind}, {number}: {wrong}", flush=True)


def fuzz(table: Path, work: Path, inputs: int, seed: int) -> None:
    """Edited inputs, a quarter of them command lines."""
    uninterrupted("ac", work)
    run = work / "ac-whole"
    names = list(readers(run))
    for name in names:
        if not rows_of(table, "files", name):
            count = -(-inputs * 3 // (4 * len(names)))
            add(table, "files", name, seed, fuzz_reader(name, run, count, seed))
    for name in COMMANDS:
        if not rows_of(table, "command lines", name):
            count = -(-inputs // (4 * len(COMMANDS)))
            add(table, "command lines", name, seed, fuzz_command(name, count, seed))


def flip_bits(table: Path, work: Path, flips: int, seed: int) -> None:
    """One bit of a file at a time: noticed, and the checkpoint before the last is used."""
    files = ("checkpoints/last.safetensors", "checkpoints/best.safetensors", "policy.safetensors")
    for place, kind in enumerate(files):
        if not rows_of(table, "flips", kind):
            count = len(range(place, flips, len(files)))
            rng = random.Random(f"{kind} {seed}")
            path = work / "ac-whole" / kind
            whole = path.read_bytes()
            try:
                wrong = [w for _ in range(count) if (w := flip(path, whole, rng))]
            finally:
                path.write_bytes(whole)
            add(table, "flips", kind, seed, {"count": count, "wrong": wrong})


def flip(path: Path, whole: bytes, rng: random.Random) -> str:
    """Flip one bit of a file; say what was not noticed."""
    bit = rng.randrange(8 * len(whole))
    data = bytearray(whole)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    run = RunDirectory(path.parents[1])
    try:
        if path.stem == "policy":
            ConsistencyPolicy.load(path)
        elif path.stem == "last":
            before = load_state(run.checkpoint_path("previous"))["step"]
            used = run.load_checkpoint("last")["step"]
            noticed = run.last_is_damaged and used == before
            return "" if noticed else f"bit {bit} was not noticed"
        else:
            run.load_checkpoint(path.stem)
    except InputError:
        return ""
    return f"bit {bit} was not noticed"


def markdown(table: Path) -> str:
    """The table of counts."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in read_rows(table):
        both = sums[row["part"], row["kind"]]
        both[0] += int(row["count"])
        both[1] += bool(row["wrong"])
    lines = [f"| {part} | {kind} | {n} | {wrong} |" for (part, kind), (n, wrong) in sums.items()]
    parts = list(dict.fromkeys(part for part, _ in sums))
    totals = ", ".join(f"{counted(table, part):,} {part}" for part in parts)
    head = (
        "# Faults\n\n`python benchmarks/faults.py`: what is done to runs and readers, and how "
        f"often the outcome is wrong.\n\n{totals}. {machine_name()}, {datetime.date.today()}.\n\n"
        "| part | kind | count | rows with something wrong |\n|---|---|---|---|\n"
    )
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
