"""A published MNIST example for the same time, with the same measures: results/seed_mnist.md.

    git clone https://github.com/cloneofsimo/consistency_models CLONE
    python benchmarks/seed_mnist.py CLONE [seconds=600] [root=DIR] [samples=5000] [threads=2]

Its `main.train` runs as it is: network, loss, optimiser, curriculum and sampling are its own, and
nothing of it is copied. What it takes of torchvision, the data and the writing of pictures, is
given to it here, so that it reads the same files; the pictures that it draws after each epoch are
left out. Its hundred epochs, which take days without a GPU, are shortened: each is over after a
hundredth of the time, so that its curriculum, which counts epochs, runs to its end. Seconds are
those of updates.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from command_line import read_options, show_help
from csv_rows import append_row
from torch import Tensor
from torch.nn import functional as F

from cmpolicy.images.dataset import open_images, to_uint8
from cmpolicy.images.extractors import open_extractor
from cmpolicy.images.files import write_grid
from cmpolicy.images.metrics import score_features
from cmpolicy.training.machine import machine_name

HERE = Path(__file__).resolve().parent
EPOCHS, BATCH_SIZE, PAD = 100, 128, 2
# the levels that its main.py samples with, and the first of them alone
LEVELS = {"1 step": [80.0], "2 steps": [80.0, 2.0], "5 steps": [80.0, 40.0, 20.0, 10.0, 5.0]}
MEASURES = ("frechet", "kid", "precision", "recall")


class TimedEpochs:
    """Batches for a training loop that goes over them once an epoch, until the time is over.

    Args:
        x: (N, 1, 32, 32) float32.
        seconds: of all epochs.
        epochs: how many.
    """

    def __init__(self, x: Tensor, seconds: float, epochs: int) -> None:
        self.x, self.seconds, self.epochs = x, seconds, epochs
        self.spent, self.updates, self.epoch = 0.0, 0, 0

    def __iter__(self) -> Iterator[tuple[Tensor, None]]:
        """Batches for this epoch's share of the time; none where an earlier one used it up."""
        self.epoch += 1
        end = self.seconds * self.epoch / self.epochs
        while self.spent < end:
            begin = time.perf_counter()
            yield self.x[torch.randint(len(self.x), (BATCH_SIZE,))], None
            self.spent += time.perf_counter() - begin
            self.updates += 1


def without_sampling(model: Any, x: Tensor, levels: list[float]) -> Tensor:
    """In place of its `sample` while it trains, which would take a minute an epoch."""
    return x


class Absent:
    """Anything of torchvision that is made when main.py is read, and not used after."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __len__(self) -> int:
        return 1


@contextmanager
def stand_ins_for_torchvision() -> Iterator[None]:
    """Modules with the names that main.py imports; others must not find them afterwards."""
    names = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.utils")
    modules: dict[str, Any] = {name: types.ModuleType(name) for name in names}
    modules["torchvision"].transforms = modules["torchvision.transforms"]
    modules["torchvision.datasets"].MNIST = modules["torchvision.datasets"].CIFAR10 = Absent
    for name in ("Compose", "Pad", "ToTensor", "Normalize"):
        setattr(modules["torchvision.transforms"], name, Absent)
    modules["torchvision.utils"].make_grid = lambda images, **_: images
    modules["torchvision.utils"].save_image = lambda images, path: None
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules |= modules
    yield
    for name in names:
        del sys.modules[name]
    sys.modules |= before


def main(arguments: list[str]) -> None:
    show_help(arguments)
    clone = Path(arguments[0]).resolve() if arguments else Path()
    if not (clone / "consistency_models" / "unet.py").is_file():
        sys.exit("give the directory of a clone of cloneofsimo/consistency_models")
    options = read_options(arguments[1:], {
        "seconds": 600.0, "root": None, "samples": 5000, "extractor": "classifier", "path": None,
        "steps": list(LEVELS), "seed": 0, "threads": None, "out": str(HERE / "results"),
    })  # fmt: skip
    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    out = Path(options["out"]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    run = out / "runs" / f"seed_mnist-{options['seconds']:g}s-seed{options['seed']}"
    sys.path.insert(0, str(clone))
    if not (run / "trained.json").exists():
        train(run, options)
    row = measure(run, options, out)
    append_row(out / "seed_mnist.csv", row)
    (out / "seed_mnist.md").write_text(markdown(row))


def train(run: Path, options: dict[str, Any]) -> None:
    """Its own loop, in a directory of its own, because it writes beside itself."""
    images = open_images("mnist", options["root"]).images
    x = F.pad(images, (PAD,) * 4).float() / 127.5 - 1
    (run / "contents").mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(run)
    try:
        with stand_ins_for_torchvision():
            import main as theirs  # type: ignore[import-not-found]

        torch.manual_seed(options["seed"])
        batches = TimedEpochs(x, options["seconds"], EPOCHS)
        sample, theirs.ConsistencyModel.sample = theirs.ConsistencyModel.sample, without_sampling
        # its loop is range(1, n_epoch): one epoch fewer than it is told
        theirs.train(EPOCHS + 1, "cpu", batches, 1, "mnist")
        theirs.ConsistencyModel.sample = sample
    finally:
        os.chdir(before)
    done = {"updates": batches.updates, "train_seconds": round(batches.spent, 1)}
    (run / "trained.json").write_text(json.dumps(done) + "\n")


def measure(run: Path, options: dict[str, Any], out: Path) -> dict[str, Any]:
    """With the extractor and the training images that ours are measured with."""
    with stand_ins_for_torchvision():
        from consistency_models import ConsistencyModel  # type: ignore[import-not-found]

    model = ConsistencyModel(1, D=256)
    model.load_state_dict(torch.load(run / "ct_mnist.pth", weights_only=True))
    model.eval()
    data = open_images("mnist", options["root"])
    extractor = open_extractor(options["extractor"], data, path=options["path"])
    truth = extractor(data.images)
    row: dict[str, Any] = {
        "seconds": options["seconds"], "seed": options["seed"], "samples": options["samples"],
        **json.loads((run / "trained.json").read_text()),
        "million_parameters": round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
        "distance": extractor.distance, "weights": extractor.weights,
    }  # fmt: skip
    sheet = []
    for name in options["steps"]:
        torch.manual_seed(options["seed"])
        begin = time.perf_counter()
        samples = draw(model, options["samples"], LEVELS[name])
        row[f"{name} samples/s"] = round(len(samples) / (time.perf_counter() - begin), 1)
        scores = score_features(extractor(samples), truth, extractor)
        row |= {f"{name} {k}": round(getattr(scores, k), 5) for k in MEASURES}
        sheet.append(samples[:20])
    write_grid(out / "seed_mnist.png", torch.cat(sheet), 20, scale=2)
    now = datetime.datetime.now().astimezone().isoformat(timespec="minutes")
    return {**row, "date": now, "torch": version("torch"), "machine": machine_name()}


def draw(model: Any, count: int, levels: list[float]) -> Tensor:
    """Pictures of its `sample`, uint8 (count, 1, 28, 28): what it padded is cut off."""
    found = []
    for begin in range(0, count, BATCH_SIZE):
        noise = torch.randn(min(BATCH_SIZE, count - begin), 1, 32, 32)
        found.append(to_uint8(model.sample(noise * levels[0], levels)))
    return torch.cat(found)[:, :, PAD:-PAD, PAD:-PAD]


def markdown(row: dict[str, Any]) -> str:
    names = [name for name in LEVELS if f"{name} frechet" in row]
    distances = [f"{row[name + ' frechet']:.2f}" for name in names]
    return "\n".join([
        "# A published MNIST example, for the same time with the same measures",
        "",
        "github.com/cloneofsimo/consistency_models, `main.py` on a CPU, its hundred epochs "
        f"shortened to {row['seconds']:g} seconds in all; written by `benchmarks/seed_mnist.py` on "
        f"{row['date']}; {row['machine']}, torch {row['torch']}. {row['distance']} of "
        f"{row['samples']:,} samples against all training images (weights {row['weights']}).",
        "",
        f"| | {' | '.join(names)} | precision, 1 step | recall, 1 step | samples/s | updates "
        "| million parameters | s |",
        f"|---|{'---|' * (len(names) + 6)}",
        f"| {row['distance']} | {' | '.join(distances)} | {row[names[0] + ' precision']:.2f} "
        f"| {row[names[0] + ' recall']:.2f} | {row[names[0] + ' samples/s']} | {row['updates']} "
        f"| {row['million_parameters']} "
        f"| {row['train_seconds']:.0f} |",
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
