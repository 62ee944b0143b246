"""Image models after equal training times: benchmarks/results/images.md and .png.

    python benchmarks/images.py                          MNIST, ten minutes a method
    python benchmarks/images.py data=cifar10 root=DIR seconds=3600 extractor=inception path=FILE
    python benchmarks/images.py quick=true               digits, a minute, to see that it works

A teacher has `teacher_share` of the time; a distillation has the rest, so that the two together
take as long as a method that starts from nothing. Time is that of updates alone, evaluations and
checkpoints apart; how many updates it holds is found by a short run beforehand. Rows are kept in
results/images.csv as they come, and a row that is there is not trained again.

Two judge: `extractor`, and beside it always EfficientNet-Lite0, of which no loss knows (weights of
the `images` extra, or efficientnet=FILE). `dmd2` starts from the teacher here; image_chain.py lets
it go on with a student.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from command_line import given_options
from csv_rows import append_row, read_rows
from image_judges import INDEPENDENT, Judge, open_judges

from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.consistency.losses import DISTILLATIONS
from cmpolicy.images.dataset import ImageDataset, open_images
from cmpolicy.images.extractors import Extractor
from cmpolicy.images.figures import draw_sheet
from cmpolicy.images.metrics import ImageScores
from cmpolicy.images.model import ImageModel, Sampler, load_image_model
from cmpolicy.training.run_directory import RunDirectory

HERE = Path(__file__).resolve().parent
TEACHER = "edm"
STEPS = (1, 2, 5)
PILOT_UPDATES = 40
COLUMNS = 20
MEASURES = ("frechet", "kid", "precision", "recall")
QUICK: dict[str, Any] = {
    "data": "digits", "methods": ["cd", "ect"], "seconds": 4.0, "samples": 200,
    "train": ["network.channels=8", "batch_size=16"],
}  # fmt: skip


def main(arguments: list[str]) -> None:
    options: dict[str, Any] = {
        "data": "mnist", "root": None, "methods": methods_there_are(), "seconds": 600.0,
        "teacher_share": 0.5, "samples": 5000, "extractor": "classifier", "path": None, "seed": 0,
        "threads": None, "train": [], "quick": False, "efficientnet": None,
        "out": str(HERE / "results"),
    }  # fmt: skip
    given = given_options(arguments, options)
    options |= (QUICK if given.get("quick") else {}) | given
    unknown = set(options["methods"]) - set(methods_there_are())
    if unknown:
        sys.exit(f"unknown methods {unknown}, expected some of {', '.join(methods_there_are())}")
    benchmark = Benchmark(options)
    for method in (TEACHER, *options["methods"]):
        benchmark.add_row(method)
        benchmark.report()


def methods_there_are() -> list[str]:
    """All with a configuration, but for the teacher's."""
    found = sorted(path.stem for path in (Path(CONFIG_PATH) / "image_loss").glob("*.yaml"))
    return [name for name in found if name != TEACHER]


@dataclass
class Benchmark:
    """Runs, rows and what measures them.

    Attributes:
        options: of the command line.
    """

    options: dict[str, Any]

    def __post_init__(self) -> None:
        o = self.options
        self.out = Path(o["out"])
        self.out.mkdir(parents=True, exist_ok=True)
        self.runs = self.out / "runs" / f"{o['data']}-{o['seconds']:g}s-seed{o['seed']}"
        if o["threads"] is not None:
            torch.set_num_threads(o["threads"])
        device = "cuda" if torch.cuda.is_available() else "cpu"
        images = open_images(o["data"], o["root"], device=device)
        weights = {o["extractor"]: o["path"], INDEPENDENT: o["efficientnet"]}
        names = [o["extractor"], INDEPENDENT]
        self.judges = open_judges(names, images, self.out / "runs", weights, device)
        self.images, self.truth = images, self.judges[0].truth
        self.extractor = self.truth.extractor

    @property
    def others(self) -> list[Judge]:
        """Who judges beside the first one."""
        return self.judges[1:]

    def add_row(self, method: str) -> None:
        """Train and measure one method, unless its row is there."""
        key = {k: str(self.options[k]) for k in ("data", "seconds", "seed", "samples", "extractor")}
        key |= {"method": method}
        if any(all(row[k] == v for k, v in key.items()) for row in self.read_rows()):
            return
        results = self.train(method)
        model = load_image_model(self.runs / method, device=self.extractor.device)
        row: dict[str, Any] = {
            **key,
            "train_seconds": round(self.train_seconds(method), 1),
            "updates": self.updates(method),
            "million_parameters": round(results["network"]["parameters"] / 1e6, 2),
            "weights": self.extractor.weights,
            "references": len(self.images),
        }
        row |= self.measured(model, method) | self.floor()
        row |= {
            "date": results["date"],
            "torch": version("torch"),
            "cmpolicy": version("cmpolicy"),
            "machine": results["machine"],
        }
        append_row(self.out / "images.csv", row)

    def train(self, method: str) -> Any:
        """Through the train command, as long as its share of the time; what results.json says."""
        run = self.runs / method
        command = [sys.executable, "-m", "cmpolicy.train"]
        if (run / "config.yaml").exists():
            command += [f"resume={run}"]
        else:
            pilot = self.runs / "pilots" / method
            if not (pilot / "results.json").exists() or not finished(pilot):
                steps = self.overrides(method, pilot, PILOT_UPDATES)
                subprocess.run([*command, *steps, "progress=false"], check=True)
            step, seconds = progress(pilot)
            updates = max(2, round(self.share(method) * self.options["seconds"] * step / seconds))
            command += self.overrides(method, run, updates)
        if not finished(run):
            print(" ".join(command[3:]), flush=True)
            subprocess.run([*command, "progress=false"], check=True)
        return json.loads((run / "results.json").read_text())

    def overrides(self, method: str, run: Path, updates: int) -> list[str]:
        """The command line of a run; its own evaluations are kept small."""
        o = self.options
        found = [
            *("--config-name", "image", f"data={o['data']}", f"image_loss={method}"),
            *(f"steps={updates}", f"eval.every={updates}", f"checkpoint_every={updates // 10 + 1}"),
            *("eval.samples=50", "eval.final_samples=50", f"seed={o['seed']}", f"run_dir={run}"),
            *o["train"],
        ]
        found += [f"data.root={o['root']}"] if o["root"] else []
        found += [f"threads={o['threads']}"] if o["threads"] else []
        found += ["loss.teacher_steps=0"] if method != TEACHER else []
        return found + ([f"teacher={self.runs / TEACHER}"] if method in DISTILLATIONS else [])

    def share(self, method: str) -> float:
        """Of the time, for the method's own run."""
        share: float = self.options["teacher_share"]
        return share if method == TEACHER else 1 - share if method in DISTILLATIONS else 1.0

    def updates(self, method: str) -> str:
        """Of the method, after those of the teacher that it needs."""
        own, _ = progress(self.runs / method)
        return f"{self.updates(TEACHER)} + {own}" if method in DISTILLATIONS else str(own)

    def train_seconds(self, method: str) -> float:
        """Spent in updates, those of the teacher counted in."""
        _, own = progress(self.runs / method)
        return own + (self.train_seconds(TEACHER) if method in DISTILLATIONS else 0.0)

    def samplers(self, model: ImageModel, method: str) -> dict[str, Sampler]:
        if method == TEACHER:
            return {"teacher, Heun 18": model.many_steps()}
        return {f"{k} step{'s' if k > 1 else ''}": model.few_steps(k) for k in STEPS}

    def measured(self, model: ImageModel, method: str) -> dict[str, Any]:
        """Every figure of every sampler, and how quick each is."""
        n, found = self.options["samples"], {}
        labels = self.truth.labels(n) if model.config.conditional else None
        for name, sampler in self.samplers(model, method).items():
            begin = time.perf_counter()
            samples = torch.cat(list(model.sample_batches(sampler, range(n), labels, 250)))
            found[f"{name} samples/s"] = round(n / (time.perf_counter() - begin), 1)
            found |= figures(name, self.truth.score(samples))
            for judge in self.others:
                found |= judge.measure(name, samples)
        return found

    def floor(self) -> dict[str, Any]:
        """The same figures of test images, as many as there are samples at most."""
        where, found = (self.options["root"], None, self.options["samples"]), dict[str, Any]()
        for name, scores in self.truth.floor(*where).items():
            found |= {**figures(name, scores), f"{name} count": scores.samples}
        for judge in self.others:
            for name, scores in judge.truth.floor(*where).items():
                found[f"{name} frechet {judge.name}"] = round(scores.frechet, 5)
        return found

    def read_rows(self) -> list[dict[str, str]]:
        return read_rows(self.out / "images.csv")

    def report(self) -> None:
        """images.md, images.json and images.png of the rows with these options."""
        keys = ("data", "seconds", "seed", "samples", "extractor")
        rows = [r for r in self.read_rows() if all(r[k] == str(self.options[k]) for k in keys)]
        (self.out / "images.json").write_text(json.dumps(rows, indent=1) + "\n")
        (self.out / "images.md").write_text(markdown(rows, self.extractor, self.options))
        blocks = {"training images": sheet_images(self.images)}
        for row in rows:
            model = load_image_model(self.runs / row["method"])
            seeds = range(COLUMNS)
            for name, sampler in self.samplers(model, row["method"]).items():
                title = f"{row['method']}, {name}: {float(row[f'{name} frechet']):.2f}"
                blocks[title] = model.sample(sampler, seeds, model.labels(seeds))
        title = f"{self.options['data']}, {self.extractor.distance} above each row"
        draw_sheet(self.out / "images.png", blocks, columns=COLUMNS, title=title)


def sheet_images(images: ImageDataset) -> torch.Tensor:
    """Training images, all classes in turn, where there are some."""
    if images.labels is None:
        return images.images[:COLUMNS].cpu()
    labels, taken = images.labels.cpu(), {}
    for i in range(COLUMNS):
        label = i % images.classes
        same = (labels == label).nonzero()[:, 0]
        taken[i] = same[min(i // images.classes, len(same) - 1)]
    return images.images[torch.stack(list(taken.values())).to(images.device)].cpu()


def figures(name: str, scores: ImageScores) -> dict[str, float]:
    return {f"{name} {measure}": round(getattr(scores, measure), 5) for measure in MEASURES}


def finished(run: Path) -> bool:
    path = run / "results.json"
    return path.exists() and json.loads(path.read_text())["finished"]


def progress(run: Path) -> tuple[int, float]:
    """Updates of a run, and the seconds spent in them."""
    state = RunDirectory.existing(run).load_checkpoint("last")
    return state["step"], state["seconds"]


def markdown(rows: list[dict[str, str]], extractor: Extractor, options: dict[str, Any]) -> str:
    """The table."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="minutes")
    first, count = rows[0], f"{options['samples']:,}"
    lines = [
        f"# Image models on {options['data']}, {options['seconds']:g} seconds of training each",
        "",
        f"Written by `benchmarks/images.py` on {now}; {first['machine']}, torch {first['torch']}, "
        f"seed {options['seed']}. {extractor.distance} of {count} samples against all "
        f"{int(first['references']):,} training images (weights {extractor.weights}); precision "
        "and recall are of one step, or the teacher's. EfficientNet's distance is to 10,000 of "
        "them, and – where its weights were not there. A distillation's seconds hold its "
        f"teacher's, {options['teacher_share']:.0%} of the whole; updates are teacher + student.",
        "",
        "| method | 1 step | 2 steps | 5 steps | Heun 18 | EfficientNet, 1 step | 2 steps "
        "| Heun 18 | KID | precision | recall | samples/s | updates | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        f"| test images ({int(first['test images count']):,}), the floor "
        f"| {number(first, 'test images frechet')} | | | "
        f"| {number(first, f'test images frechet {INDEPENDENT}', 1)} | | "
        f"| {number(first, 'test images kid', 4)} | {number(first, 'test images precision')} "
        f"| {number(first, 'test images recall')} | | | |",
    ]
    for row in rows:
        main = "teacher, Heun 18" if row["method"] == TEACHER else "1 step"
        columns = ("1 step", "2 steps", "5 steps", "teacher, Heun 18")
        cells = [
            *(number(row, f"{name} frechet") for name in columns),
            *(number(row, f"{columns[i]} frechet {INDEPENDENT}", 1) for i in (0, 1, 3)),
            *(number(row, f"{main} kid", 4), number(row, f"{main} precision")),
            *(number(row, f"{main} recall"), number(row, f"{main} samples/s", 0)),
            *(row["updates"], number(row, "train_seconds", 0)),
        ]
        lines.append(f"| {row['method']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def number(row: dict[str, str], key: str, digits: int = 2) -> str:
    return f"{float(row[key]):.{digits}f}" if row.get(key) else "–"


if __name__ == "__main__":
    main(sys.argv[1:])
