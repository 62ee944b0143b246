"""How long `import cmpolicy` and `--help` take, in units of `import torch`.

    python benchmarks/import_time.py [tree=.] [python=PYTHON] [runs=11]

Each command runs in a process of its own, all take turns `runs` times, after one turn that is not
counted. Time is the processor time of the process, which other processes on the machine disturb
least, and in brackets the wall's; medians, and medians of the ratio in one turn. The package is
that of the checkout `tree`.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from command_line import read_options

DEFAULTS = {"tree": ".", "python": sys.executable, "runs": 11}
COMMANDS = {
    "import torch": ["-c", "import torch"],
    "import cmpolicy": ["-c", "import cmpolicy"],
    "python -m cmpolicy.train --help": ["-m", "cmpolicy.train", "--help"],
}
BASE = "import torch"


def main(arguments: list[str]) -> None:
    options = read_options(arguments, DEFAULTS)
    turns = {name: list[tuple[float, float]]() for name in COMMANDS}
    for _ in range(options["runs"] + 1):
        for name, command in COMMANDS.items():
            turns[name].append(seconds([options["python"], *command], Path(options["tree"])))
    for name, times in turns.items():
        cells = []
        for clock in (0, 1):
            ratio = median(
                t[clock] / b[clock] for t, b in zip(times[1:], turns[BASE][1:], strict=True)
            )
            cells.append(f"{median(t[clock] for t in times[1:]):.2f} s, {ratio:.2f} × {BASE}")
        print(f"{name}: {cells[0]} (wall {cells[1]})")


def seconds(command: list[str], tree: Path) -> tuple[float, float]:
    """Processor and wall seconds of a command in `tree`, which Python searches first."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, cwd=tree, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return processor, wall


if __name__ == "__main__":
    main(sys.argv[1:])
