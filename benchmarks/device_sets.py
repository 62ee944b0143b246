"""Rows of `offline_rl.py` within some seconds: as many stacked runs side by side as fit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import offline_rl
import torch
from device_pack import is_packed
from device_speed import stacked_speed
from offline_rl import PROTOCOLS, Options, Run
from offline_rl_data import find_data, task_overrides
from offline_rl_rows import Key, add_rows, read_rows

from cmpolicy.training.machine import cpu_name

HERE = Path(__file__).resolve().parent
LOOK = 5.0  # seconds between two looks at the runs
GRACE = 30.0  # seconds that a run has to save what it has
USED = 0.85  # of the seconds left, the rest is for the final evaluations
MEMORY = 4 * 2**30  # bytes of the GPU for a run more
Left = Callable[[], float]


def run(options: dict[str, Any], left: Left) -> None:
    """Train what has no row yet, one agent after the other, until the seconds are over."""
    if options["data"] is None:
        print("sets: no data=, a folder of D4RL-layout files")
        return
    table = Path(options["out"]) / f"offline_rl_{options['protocol']}.csv"
    for agent in options["agents"]:
        waiting = planned(options, agent, table)
        if waiting:
            Sets(waiting, options, table, left).train()
        if left() <= GRACE:
            return


def planned(options: dict[str, Any], agent: str, table: Path) -> list[Run]:
    """A run of all seeds for each set that is there and has no rows, in order."""
    given = Options(data=options["data"], runs=options["runs"], protocol=options["protocol"])
    given.train = [f"device={options['device']}", *options["train"]]
    protocol, done = PROTOCOLS[options["protocol"]], {row.key for row in read_rows(table)}
    overrides, found = offline_rl.agent_overrides(agent, given)[agent], []
    for name in options["sets"]:
        if not (Path(options["data"]) / f"{name}.hdf5").is_file():
            print(f"sets: no {name} in {options['data']}")
            continue
        keys = [Key(name, agent, seed) for seed in range(options["seeds"])]
        if not done.issuperset(keys):
            own = [*task_overrides(name, given), *overrides, *protocol.arguments()]
            found.append(offline_rl.plan(keys, own, given))
    return found


class Going:
    """A run in progress.

    Attributes:
        marks: (seconds since the start, updates) at every look that found an evaluation more.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.begin = run, time.monotonic()
        self.marks: list[tuple[float, int]] = []
        self.told_to_stop = False
        if not run.resumes and run.directory.exists():
            shutil.rmtree(run.directory)  # it ended before it had begun
        run.directory.parent.mkdir(parents=True, exist_ok=True)
        with run.directory.with_suffix(".log").open("a") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                run.command, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def look(self) -> None:
        """Note how far it is; evaluations count as part of the time."""
        try:
            results = json.loads((self.run.directory / "results.json").read_text())
            step = int(results["evaluations"][-1]["step"])
        except (OSError, ValueError, LookupError):
            return
        if not self.marks or step > self.marks[-1][1]:
            self.marks.append((time.monotonic() - self.begin, step))

    @property
    def speed(self) -> float | None:
        """Updates a second since its first evaluation, which compilation came before."""
        if len(self.marks) < 2:
            return None
        (first, step), (last, now) = self.marks[0], self.marks[-1]
        return (now - step) / (last - first)


class Sets:
    """Runs of one agent, side by side.

    Another one begins when all are known to end in time even if it takes an equal part of the
    speed away.
    """

    def __init__(
        self, waiting: list[Run], options: dict[str, Any], table: Path, left: Left
    ) -> None:
        self.waiting, self.options, self.table, self.left = waiting, options, table, left
        self.updates = PROTOCOLS[options["protocol"]].updates
        self.going: list[Going] = []
        self.most_at_once = 0

    def train(self) -> None:
        """Until all have ended, or the seconds are over: then they save and wait for a resume."""
        try:
            for _ in range(self.at_first()):
                self.begin()
            while self.going and self.left() > GRACE:
                time.sleep(min(LOOK, max(0.05, self.left() - GRACE)))
                self.collect()
                if not self.going or self.another_fits():
                    self.begin()
        finally:
            self.stop()

    def at_first(self) -> int:
        """As many as fit by the speed of `device_speed.csv`, at least one."""
        speed = stacked_speed(self.options)
        fits = 1 if speed is None else int(USED * self.left() * speed / self.updates)
        return max(1, min(fits, len(self.waiting), (os.cpu_count() or 2) - 1))

    def begin(self) -> None:
        """Begin the next run, if there is one."""
        if self.waiting:
            self.going.append(Going(self.waiting.pop(0)))
            self.most_at_once = max(self.most_at_once, len(self.going))
            print(f"{self.going[-1].run.names} begins, {self.left():.0f} s left", flush=True)

    def another_fits(self) -> bool:
        """Whether a run more would end in time, and those that are going still would."""
        speeds = [going.speed for going in self.going]
        known = [speed for speed in speeds if speed is not None]
        if len(known) < len(speeds) or not self.waiting:
            return False
        if len(self.going) >= (os.cpu_count() or 2) - 1 or not memory_is_free(self.options):
            return False
        share, seconds = len(known) / (len(known) + 1), USED * self.left()
        rest = [(self.updates - g.marks[-1][1]) / s for g, s in zip(self.going, known, strict=True)]
        return max(*rest, self.updates / min(known)) / share <= seconds

    def collect(self) -> None:
        """Rows of what has ended."""
        for going in list(self.going):
            going.look()
            if going.process.poll() is None:
                continue
            self.going.remove(going)
            if going.process.returncode == 0:
                add_rows(self.table, self.rows(going))
                said = "ends"
            elif going.told_to_stop:
                said = "waits for the next call"
            else:
                said = f"FAILED ({going.run.directory.with_suffix('.log')})"
            print(f"{going.run.names} {said}, {self.left():.0f} s left", flush=True)

    def rows(self, going: Going) -> list[Any]:
        """Rows of a finished run; those of packed data say so."""
        where = f"{cpu_name()}, {os.cpu_count()} cores, up to {self.most_at_once} runs at a time"
        rows = going.run.rows(time.monotonic() - going.begin, where)
        name = going.run.keys[0].set
        file = find_data(name, None, Path(self.options["data"]), Path(self.options["runs"]))
        for row in rows:
            row.dataset += ", rounded to float16" if is_packed(file) else ""
        return rows

    def stop(self) -> None:
        """Tell what still goes to save, and wait."""
        for going in self.going:
            going.told_to_stop = True
            going.process.terminate()
        for going in self.going:
            try:
                going.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                going.process.kill()
                going.process.wait()
        self.collect()


def memory_is_free(options: dict[str, Any]) -> bool:
    """Whether the device holds a run more."""
    return options["device"] == "cpu" or torch.cuda.mem_get_info()[0] >= MEMORY


def screen(options: dict[str, Any], left: Left) -> None:
    """The research model of screening/ on the six sets; rows into device_screening.csv."""
    script = [sys.executable, str(HERE / "screening" / "screen.py"), "stage=sets"]
    folder = Path(options["runs"]) / "screening_data"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "sac").exists():  # where the script looks
        (folder / "sac").symlink_to(Path(options["data"]).resolve())
    numbers = ["updates=200000", f"seconds={left() * 0.8:.0f}", f"seeds={options['seeds']}"]
    table = Path(options["out"]) / "device_screening.csv"
    subprocess.run([*script, f"data={folder}", f"out={table}", *numbers], check=True)
