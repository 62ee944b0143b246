"""Offline RL: sets × agents × seeds, ours and peers', in one table.

    python benchmarks/offline_rl.py data=DIR/sac agents=[ac,weighted_bc,bc] jobs=2
    python benchmarks/offline_rl.py protocol=d4rl agents=[ac,bc]
    python benchmarks/offline_rl.py data=DIR protocol=short
    python benchmarks/offline_rl.py sets=[hopper-medium] agents=[ac,iql] seeds=[0,3]
    python benchmarks/offline_rl.py data=DIR agents=[ac,d3rlpy_rebrac,ding_jin_code] ding_jin=REPO
    python benchmarks/offline_rl.py data=DIR 'agents=[ac,{ac_strong: [agent=ac,agent.radius=0.3]}]'
    python benchmarks/offline_rl.py protocol=ogbench data=DIR \
        'agents=[ac,bc,{ac_chunks: [agent=ac,agent.policy.horizon=5]}]'

    data       a folder of D4RL-layout files SET.hdf5 and, in its subfolder minari, of Minari
               datasets; a missing medium-expert is made of medium followed by expert. Without it
               the real ids are taken, from the source `source` (d4rl or minari), where `mixed`
               is medium-replay
    agents     names in configs/agent/, `d3rlpy_…` (see peers/d3rlpy_agent.py; in an environment
               of its own, made at `venv`), `ding_jin_code` (their repository, at `ding_jin`), or
               {label: [overrides of the train command]}
    protocol   standard: 200,000 updates, 3 seeds, on data made as D4RL's are, evaluations of 20
               episodes; ogbench: the same with 2 seeds, on OGBench's tasks, whose files NAME-v0.npz
               are in `data` or where the package keeps them, into OUT/ogbench.csv; d4rl: 1,000,000
               updates, 5 seeds, the nine locomotion sets as published; short: 50,000 updates, 2
               seeds, evaluations of 10, products in fp32; quick: to see that it works. Batches of
               256, an evaluation every 25th of the training on
               fresh starts; the score is the mean of the last five
    jobs       runs at a time, one thread each; train=[overrides for every run of ours]
    at_once    true: the seeds of a set and an agent of ours train in one run (the train command's
               seeds=), which a GPU is fast at
    out, runs  where the table goes, and the runs

A row is one seed of an agent on a set. Rows are kept in OUT/offline_rl_PROTOCOL.csv as they come;
a row that is there is not trained again, and a run of ours that was interrupted goes on from its
checkpoint.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from command_line import given_options
from offline_rl_data import task_overrides
from offline_rl_rows import Key, Row, add_rows, read_rows, row_of
from offline_rl_table import report
from peers.environment import d3rlpy_python

from cmpolicy.training.machine import cpu_name

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
# Where Diffusion-QL's own table has another η than 1; door is taken as its nearest, pen.
DIFFUSION_QL_ETA = {"pen": 0.15, "door": 0.15, "kitchen": 0.005}


@dataclass(frozen=True)
class Protocol:
    """How long, on what, and how often a run is evaluated."""

    updates: int
    seeds: int
    sets: tuple[str, ...]
    batch_size: int = 256
    evaluations: int = 25
    episodes: int = 10
    final_episodes: int = 20
    precision: str = "fp32"
    table: str | None = None  # offline_rl_PROTOCOL

    def arguments(self) -> list[str]:
        """For the train command, ours and the peers'."""
        return [
            f"steps={self.updates}",
            f"batch_size={self.batch_size}",
            f"eval.every={self.updates // self.evaluations}",
            f"eval.episodes={self.episodes}",
            f"eval.final_episodes={self.final_episodes}",
            f"precision={self.precision}",
        ]

    def __str__(self) -> str:
        return (
            f"{self.updates:,} updates of batches of {self.batch_size}, {self.evaluations} "
            f"evaluations of {self.episodes} episodes, at the end one of {self.final_episodes}"
        )


SHORT_SETS = (
    *("hopper-medium", "hopper-mixed", "hopper-medium-expert"),
    *("walker2d-medium", "halfcheetah-medium", "pen-expert"),
)
STANDARD_SETS = tuple(
    f"{e}-{b}" for e in ("hopper", "walker2d", "halfcheetah") for b in ("medium", "medium-replay")
)
OGBENCH_SETS = (
    *("cube-single-play-singletask-task1-v0", "cube-single-play-singletask-task2-v0"),
    *("scene-play-singletask-v0", "pointmaze-large-stitch-singletask-v0"),
)
D4RL_SETS = tuple(
    f"{e}-{b}"
    for e in ("halfcheetah", "hopper", "walker2d")
    for b in ("medium", "medium-replay", "medium-expert")
)
PROTOCOLS = {
    "short": Protocol(50_000, 2, SHORT_SETS),
    "standard": Protocol(
        200_000, 3, STANDARD_SETS, episodes=20, final_episodes=100, precision="auto"
    ),
    "ogbench": Protocol(
        *(200_000, 2, OGBENCH_SETS),
        **{"episodes": 20, "final_episodes": 100, "precision": "auto", "table": "ogbench"},
    ),
    "d4rl": Protocol(1_000_000, 5, D4RL_SETS, final_episodes=100, precision="auto"),
    "quick": Protocol(20, 1, ("hopper-medium",), 32, evaluations=5, episodes=2, final_episodes=2),
}


@dataclass
class Options:
    """What the command line says; see the top of the file."""

    data: str | None = None
    source: str = "d4rl"
    protocol: str = "standard"
    sets: list[str] = field(default_factory=list)
    agents: list[Any] = field(default_factory=lambda: ["ac", "weighted_bc", "bc"])
    seeds: Any = None
    jobs: int = 1
    at_once: bool = False
    train: list[str] = field(default_factory=list)
    out: str = str(HERE / "results")
    runs: str = str(HERE / "results" / "runs")
    venv: str = str(PEERS / ".venv")
    ding_jin: str | None = None


@dataclass(frozen=True)
class Run:
    """One run: its rows' places in the table, its directory, and the command that makes it."""

    keys: list[Key]  # several where their seeds train at once
    directory: Path
    command: list[str]
    resumes: bool

    @property
    def names(self) -> str:
        """Of set, agent and seeds."""
        return f"{self.keys[0].set} {self.keys[0].agent} {','.join(str(k.seed) for k in self.keys)}"

    def rows(self, seconds: float, where: str) -> list[Row]:
        """What it came to; each of several seeds has its part of the seconds."""
        several = len(self.keys) > 1
        wall = None if self.resumes else seconds / len(self.keys)
        if several:
            where += f", {len(self.keys)} seeds at once"
        return [
            row_of(
                key, self.directory / f"seed-{key.seed}" if several else self.directory, wall, where
            )
            for key in self.keys
        ]


def main(arguments: list[str]) -> int:
    options = read_options(arguments)
    protocol = PROTOCOLS[options.protocol]
    own = named_by_source(protocol.sets, options)
    sets = options.sets or own
    seeds = options.seeds if options.seeds is not None else protocol.seeds
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    agents = {
        label: overrides
        for agent in options.agents
        for label, overrides in agent_overrides(agent, options).items()
    }
    table = Path(options.out) / f"{protocol.table or 'offline_rl_' + options.protocol}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    tasks = {name: task_overrides(name, options) for name in sets}

    def summarize() -> None:
        words = f"{options.protocol}: {protocol}"
        report(table, list(sets), list(agents), max(len(seeds), protocol.seeds), words, own)

    done = {row.key for row in read_rows(table)}
    wanted = [Key(s, agent, seed) for seed in seeds for s in sets for agent in agents]
    missing = [key for key in wanted if key not in done]
    runs = [
        plan(keys, [*tasks[keys[0].set], *agents[keys[0].agent], *protocol.arguments()], options)
        for keys in grouped(missing, at_once=options.at_once)
    ]
    there = len(wanted) - len(missing)
    print(f"{len(wanted)} rows wanted, {there} there, {len(runs)} runs to do")
    failed = run_all(runs, options.jobs, table, summarize)
    if read_rows(table):
        summarize()
    return 1 if failed else 0


def read_options(arguments: list[str]) -> Options:
    options = Options(**given_options(arguments, [f.name for f in fields(Options)]))
    if options.protocol not in PROTOCOLS:
        sys.exit(f"unknown protocol {options.protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    for name in ("sets", "agents", "train"):  # one alone is a list of one
        value = getattr(options, name)
        setattr(options, name, value if isinstance(value, list) else [value])
    return options


def named_by_source(sets: tuple[str, ...], options: Options) -> list[str]:
    """The protocol's sets; D4RL has no `mixed`, its medium-replay is the nearest."""
    if options.data is not None:
        return list(sets)
    return [s.replace("-mixed", "-medium-replay") for s in sets]


def agent_overrides(agent: Any, options: Options) -> dict[str, list[str]]:
    """By label, what the train command must be told; of a peer, only its label."""
    if isinstance(agent, dict) and all(isinstance(given, list) for given in agent.values()):
        return {label: [*given, f"agent.name={label}"] for label, given in agent.items()}
    if not isinstance(agent, str):
        sys.exit(f"an agent is a name or {{label: [overrides]}}, got {agent}")
    if agent == "ding_jin_code" and options.ding_jin is None:
        sys.exit("ding_jin_code needs their repository: give ding_jin=PATH of a clone")
    name = "bc" if is_peer(agent) else agent
    return {agent: [f"agent={name}", f"agent.name={agent}"]}


def is_peer(agent: str) -> bool:
    return agent.startswith("d3rlpy_") or agent == "ding_jin_code"


def grouped(keys: list[Key], *, at_once: bool) -> list[list[Key]]:
    """The rows of each run: one, or those of all seeds that are to train at once."""
    runs: dict[Any, list[Key]] = {}
    for key in keys:
        together = at_once and not is_peer(key.agent)
        runs.setdefault(key[:2] if together else key, []).append(key)
    return list(runs.values())


def plan(keys: list[Key], overrides: list[str], options: Options) -> Run:
    """The command of one run; where ours has begun, the one that goes on with it."""
    (name, agent, _), seeds = keys[0], [key.seed for key in keys]
    directory = Path(options.runs) / options.protocol / "-".join([name, agent, *map(str, seeds)])
    seed = f"seed={seeds[0]}" if len(seeds) == 1 else f"seeds={seeds}".replace(" ", "")
    shared = [*overrides, seed, f"run_dir='{directory}'"]
    shared += ["threads=1", "progress=false", *options.train]
    if agent.startswith("d3rlpy_"):
        python = str(d3rlpy_python(Path(options.venv)))
        algorithm = agent.removeprefix("d3rlpy_")
        command = [python, str(PEERS / "d3rlpy_agent.py"), algorithm, *shared]
    elif agent == "ding_jin_code":
        command = [sys.executable, str(PEERS / "ding_jin_code.py"), str(options.ding_jin), *shared]
    else:
        train = [sys.executable, "-m", "cmpolicy.train"]
        if (directory / "config.yaml").exists():
            return Run(keys, directory, [*train, f"resume='{directory}'"], resumes=True)
        eta = DIFFUSION_QL_ETA.get(name.partition("-")[0])
        own = [f"agent.eta={eta}"] if agent == "diffusion_ql" and eta else []
        command = [*train, *shared, *own]
    return Run(keys, directory, command, resumes=False)


def run_all(runs: list[Run], jobs: int, table: Path, summarize: Callable[[], None]) -> list[Run]:
    """Run them, `jobs` at a time; rows and table follow each. Gives those that failed."""
    failed = []
    waiting = iter(runs)
    with ThreadPoolExecutor(jobs) as pool:
        going: dict[Future[float | None], Run] = {}
        for run in [r for _, r in zip(range(jobs), waiting, strict=False)]:
            going[pool.submit(execute, run)] = run
        while going:
            ready, _ = wait(going, return_when=FIRST_COMPLETED)
            for future in ready:
                run, seconds = going.pop(future), future.result()
                if seconds is None:
                    failed.append(run)
                else:
                    where = f"{cpu_name()}, {os.cpu_count()} cores, {jobs} at a time"
                    add_rows(table, run.rows(seconds, where))
                    summarize()
                following = next(waiting, None)
                if following is not None:
                    going[pool.submit(execute, following)] = following
    return failed


def execute(run: Run) -> float | None:
    """Seconds that the command took; None if it failed, whose last line is printed."""
    print(run.names, "goes on" if run.resumes else "begins", flush=True)
    if not run.resumes and run.directory.exists():
        shutil.rmtree(run.directory)  # a peer that was interrupted begins again
    log = run.directory.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    with log.open("a") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            run.command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        )
    if done.returncode != 0:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        print(f"{run.names} FAILED ({log}): {last}", file=sys.stderr, flush=True)
        return None
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
