"""A chain of image models, teacher, student, DMD2, and what each is worth: results/image_chain.md.

    python benchmarks/image_chain.py data=mnist root=DIR threads=1
    python benchmarks/image_chain.py data=cifar10_small root=DIR inception=FILE unit=3600
    python benchmarks/image_chain.py data=cifar10 root=DIR inception=FILE unit=86400 samples=50000

    data       a file of configs/data/; `root` where its images are
    unit       seconds of a stage that takes one unit; a stage says how many it takes
    stages     some of STAGES; by default those of the data
    samples    of each sampler, 50,000 for the FID of papers
    judges     extractors; the FID is that of inception. Weights: inception=FILE, efficientnet=FILE
    stop_after seconds after which this call ends; the run that was going goes on at the next call
    train      overrides for every run

A stage goes on from the run of another one: `cd` distils the teacher `edm`, `dmd2` goes on with the
student of `cd`. Stages of equal total time compare. Time is that of updates alone; how many of
them a stage has follows from the processor time of a few on a CPU, which other work on the
machine does not change, and from the clock on a GPU. Samples are written to RUN/samples-….npz, from
which they are measured. Rows are kept in OUT/image_chain.csv as they come; a row that is there is
not made again.
"""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import torch
from command_line import read_options
from csv_rows import append_row, read_rows
from image_judges import INDEPENDENT, Judge, open_judges
from omegaconf import OmegaConf

from cmpolicy.acceleration.precision import resolve_precision, use_precision
from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.images.config import ImageConfig
from cmpolicy.images.dataset import open_images
from cmpolicy.images.evaluation import Truth
from cmpolicy.images.figures import draw_sheet
from cmpolicy.images.files import read_npz, write_npz
from cmpolicy.images.model import ImageModel, Sampler, load_image_model
from cmpolicy.images.task import ImageTask
from cmpolicy.training.distributed import Ranks
from cmpolicy.training.machine import machine_name

HERE = Path(__file__).resolve().parent
COLUMNS = 20
TIMED = 4  # updates, after as many that warm up; whole cycles of DMD2 are a multiple


class Stage(NamedTuple):
    """A run: its loss, the stage whose run it starts from, and its part of a chain's time."""

    loss: str
    start: str | None
    units: float
    overrides: tuple[str, ...] = ()


EIGHTEEN = ("loss.options.num_levels=18",)
STAGES = {
    "edm": Stage("edm", None, 1),
    # two units in all
    "cd": Stage("cd", "edm", 1),
    "cd 18": Stage("cd", "edm", 1, EIGHTEEN),
    "ect": Stage("ect", "edm", 1),
    "cd half": Stage("cd", "edm", 0.5),
    "cd half, dmd2": Stage("dmd2", "cd half", 0.5),
    "dmd2 alone": Stage("dmd2", "edm", 1),
    # three: equal extra time for going on with CD and for DMD2
    "cd longer": Stage("cd", "edm", 2),
    "dmd2": Stage("dmd2", "cd", 1),
}
SHORT = ("edm", "cd", "cd longer", "dmd2")
DEFAULTS: dict[str, Any] = {
    "data": "mnist", "root": None, "unit": 750.0, "stages": None, "samples": 5000, "seed": 0,
    "judges": None, "inception": None, "efficientnet": None, "threads": None, "train": [],
    "device": None, "stop_after": None, "out": str(HERE / "results"), "runs": None,
}  # fmt: skip


def main(arguments: list[str]) -> None:
    options = read_options(arguments, DEFAULTS)
    cifar = str(options["data"]).startswith("cifar10")
    options["stages"] = options["stages"] or list(SHORT if cifar else STAGES)
    first = "inception" if cifar else "classifier"
    options["judges"] = options["judges"] or [first, INDEPENDENT]
    unknown = set(options["stages"]) - set(STAGES)
    if unknown:
        sys.exit(f"unknown stages {unknown}, expected some of {', '.join(STAGES)}")
    chain = Chain(options)
    for name in options["stages"]:
        if not chain.complete(name):
            return
        chain.report()


class Chain:
    """Runs, rows and judges of one dataset."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options, self.begin = options, time.monotonic()
        if options["threads"] is not None:
            torch.set_num_threads(options["threads"])
        chosen = options["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
        self.device = torch.device(chosen)
        self.out = Path(options["out"])
        name = f"{options['data']}-{options['unit']:g}s-seed{options['seed']}"
        self.runs = Path(options["runs"] or self.out / "runs") / f"chain-{name}"
        self.table = self.out / "image_chain.csv"
        self.out.mkdir(parents=True, exist_ok=True)
        self.open: tuple[list[Judge], Truth] | None = None

    @property
    def judges(self) -> list[Judge]:
        """Opened when the first row needs them."""
        if self.open is None:
            o, data = self.options, self.config("edm", 1).data
            images = open_images(data.name, data.root, size=data.size, device=self.device)
            weights = {"inception": o["inception"], INDEPENDENT: o["efficientnet"]}
            judges = open_judges(o["judges"], images, self.runs.parent, weights, self.device)
            self.open = judges, judges[0].truth
        return self.open[0]

    def left(self) -> float:
        """Seconds until this call is to end."""
        stop = self.options["stop_after"]
        return float("inf") if stop is None else stop - (time.monotonic() - self.begin)

    # Training ---------------------------------------------------------------------------------

    def complete(self, name: str) -> bool:
        """Train a stage, after what it starts from, and write its row; False if time is over."""
        start = STAGES[name].start
        if start is not None and not self.complete(start):
            return False
        if any(all(row[k] == v for k, v in self.key(name).items()) for row in self.rows()):
            return True
        if not finished(self.run(name)) and not self.train(name):
            return False
        append_row(self.table, self.row(name))
        return True

    def run(self, name: str) -> Path:
        """The run directory of a stage."""
        return self.runs / name.replace(", ", "-").replace(" ", "-")

    def train(self, name: str) -> bool:
        """Through the train command; False if it was stopped before its end."""
        run = self.run(name)
        command = [sys.executable, "-m", "cmpolicy.train"]
        if (run / "config.yaml").exists():
            command += [f"resume='{run}'", "progress=false"]
        else:
            each = self.seconds_an_update(name)
            updates = max(2, round(self.options["unit"] * STAGES[name].units / each))
            command += self.overrides(name, updates)
        if self.left() <= 0:
            return False
        print(f"{name}: {' '.join(command[3:])}", flush=True)
        process = subprocess.Popen(command)
        try:
            code = process.wait(None if self.left() == float("inf") else self.left())
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # it saves
            process.wait()
            return False
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if code:
            sys.exit(f"{name} failed")
        return True

    def overrides(self, name: str, updates: int) -> list[str]:
        """The command line of a run; its own evaluations are kept small."""
        o, stage = self.options, STAGES[name]
        found = [
            *("--config-name", "image", f"data={o['data']}", f"image_loss={stage.loss}"),
            *(f"steps={updates}", f"eval.every={updates}", f"checkpoint_every={updates // 20 + 1}"),
            *("eval.samples=50", "eval.final_samples=50", f"seed={o['seed']}", "progress=false"),
            *(f"run_dir='{self.run(name)}'", "loss.teacher_steps=0", f"device={self.device}"),
            *stage.overrides,
            *o["train"],
        ]
        found += [f"data.root='{o['root']}'"] if o["root"] else []
        found += [f"threads={o['threads']}"] if o["threads"] else []
        return found + ([f"teacher='{self.run(stage.start)}'"] if stage.start else [])

    def config(self, name: str, updates: int) -> ImageConfig:
        """The same command line as a configuration."""
        _, config_name, *rest = self.overrides(name, updates)
        with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
            config = OmegaConf.to_object(hydra.compose(config_name, rest))
        assert isinstance(config, ImageConfig)
        return config

    def seconds_an_update(self, name: str) -> float:
        """Of the processor on a CPU, of the clock on a GPU."""
        config = self.config(name, 1000)
        precision = resolve_precision(config.precision, self.device, config.AUTO_PRECISION)
        use_precision(precision, self.device)
        task = ImageTask(config, self.device, Ranks())
        cycle = int(config.loss.options.get("fake_updates", 5)) if task.learner.fake else 1
        updates = cycle * TIMED

        def turn() -> float:
            begin = time.perf_counter() if self.device.type == "cuda" else time.process_time()
            for _ in range(updates):
                task.learner.update(task.dataset.sample(config.batch_size))
            if self.device.type == "cuda":
                torch.cuda.synchronize()
                return time.perf_counter() - begin
            return time.process_time() - begin

        turn()
        return turn() / updates / (1 if self.device.type == "cuda" else torch.get_num_threads())

    # Measuring --------------------------------------------------------------------------------

    def key(self, name: str) -> dict[str, str]:
        """What makes a row another one."""
        o = self.options
        return {"stage": name} | {k: str(o[k]) for k in ("data", "unit", "seed", "samples")}

    def rows(self) -> list[dict[str, str]]:
        return read_rows(self.table)

    def row(self, name: str) -> dict[str, Any]:
        """The row of a finished stage."""
        model = load_image_model(self.run(name), device=self.device)
        results = json.loads((self.run(name) / "results.json").read_text())
        row: dict[str, Any] = {
            **self.key(name),
            "loss": STAGES[name].loss,
            "starts_from": STAGES[name].start or "",
            "total_seconds": units(name) * self.options["unit"],
            "updates": model.step,
            "million_parameters": round(results["network"]["parameters"] / 1e6, 2),
            "checkpoint_megabytes": round(checkpoint(self.run(name)).stat().st_size / 1e6, 1),
        }
        for sampler_name, sampler in samplers(model).items():
            samples = self.samples(name, model, sampler_name, sampler)
            for judge in self.judges:
                row |= judge.measure(sampler_name, samples)
        return row | {
            "references": " ".join(
                f"{j.name}={len(j.truth.features)}"  # type: ignore[arg-type]  # not from a file
                for j in self.judges
            ),
            "weights": " ".join(f"{j.name}={j.truth.extractor.weights}" for j in self.judges),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "torch": version("torch"),
            "machine": machine_name(self.device),
        }

    def samples(
        self, name: str, model: ImageModel, sampler_name: str, sampler: Sampler
    ) -> torch.Tensor:
        """Of a stage, from its .npz, which is written where it is not there."""
        count = self.options["samples"]
        path = self.run(name) / f"samples-{sampler_name.replace(' ', '-')}-{count}.npz"
        if not path.exists():
            _ = self.judges  # whose data give the labels
            assert self.open is not None
            labels = self.open[1].labels(count) if model.config.conditional else None
            batches = model.sample_batches(sampler, range(count), labels, 250)
            write_npz(path, torch.cat(list(batches)), labels)
        return torch.from_numpy(read_npz(path).images)

    def report(self) -> None:
        """image_chain.md of the rows with these options, and a sheet of pictures."""
        own = {k: v for k, v in self.key("").items() if k != "stage"}
        rows = [r for r in self.rows() if all(r[k] == v for k, v in own.items())]
        names = [judge.name for judge in self.judges]
        path = self.out / f"image_chain_{self.options['data']}.md"
        path.write_text(markdown(rows, names, self.options))
        blocks = {}
        for row in rows:
            if not checkpoint(self.run(row["stage"])).exists():
                continue
            model = load_image_model(self.run(row["stage"]), device=self.device)
            seeds = range(COLUMNS)
            name, sampler = next(iter(samplers(model).items()))
            blocks[f"{row['stage']}, {name}"] = model.sample(sampler, seeds, model.labels(seeds))
        draw_sheet(path.with_suffix(".png"), blocks, columns=COLUMNS, title=self.options["data"])


def units(name: str) -> float:
    """Of a stage and of all that it starts from."""
    stage = STAGES[name]
    return stage.units + (units(stage.start) if stage.start else 0.0)


def samplers(model: ImageModel) -> dict[str, Sampler]:
    """One and two steps of a student, Heun's method of a teacher."""
    if model.learner.student is None:
        return {"teacher": model.many_steps()}
    return {"1 step": model.few_steps(1), "2 steps": model.few_steps(2)}


def checkpoint(run: Path) -> Path:
    return run / "checkpoints" / "last.safetensors"


def finished(run: Path) -> bool:
    path = run / "results.json"
    return path.exists() and bool(json.loads(path.read_text())["finished"])


def markdown(rows: list[dict[str, str]], judges: list[str], options: dict[str, Any]) -> str:
    """The table, each judge's distance for each sampler, and the ratio to the teacher's."""
    first = rows[0]
    teacher = next((r for r in rows if r["loss"] == "edm"), {})
    lines = [
        f"# A chain of image models on {options['data']}",
        "",
        f"Written by `benchmarks/image_chain.py`; {first['machine']}, torch {first['torch']}, seed "
        f"{options['seed']}, a unit of {options['unit']:g} s. Fréchet distances of "
        f"{options['samples']:,} samples against training images ({first['references']}; weights "
        f"{first['weights']}); in brackets the ratio to the teacher's. That of `inception` is the "
        "FID. Seconds are those of a stage's updates and of all that it starts from.",
        "",
        "| stage | from | s | updates | "
        + " | ".join(f"{s}, {j}" for j in judges for s in ("1 step", "2 steps", "teacher"))
        + " | MB |",
        "|---|---|---|---|" + "---|" * (3 * len(judges)) + "---|",
    ]
    for row in rows:
        cells = [
            cell(row, teacher, sampler, judge)
            for judge in judges
            for sampler in ("1 step", "2 steps", "teacher")
        ]
        start = row["starts_from"] or "–"
        lines.append(
            f"| {row['stage']} | {start} | {float(row['total_seconds']):g} | {row['updates']} | "
            f"{' | '.join(cells)} | {row['checkpoint_megabytes']} |"
        )
    return "\n".join(lines) + "\n"


def cell(row: dict[str, str], teacher: dict[str, str], sampler: str, judge: str) -> str:
    """A distance and its ratio to the teacher's."""
    value = row.get(f"{sampler} frechet {judge}")
    if not value:
        return "–"
    base = teacher.get(f"teacher frechet {judge}")
    ratio = f" ({float(value) / float(base):.2f})" if base and sampler != "teacher" else ""
    return f"{float(value):.3g}{ratio}"


if __name__ == "__main__":
    main(sys.argv[1:])
