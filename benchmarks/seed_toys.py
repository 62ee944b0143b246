"""A published toy code on the same data, with the same measures: benchmarks/results/seed_toys.md.

    git clone https://github.com/mbreuss/consistency_models_toy_task CLONE
    pip install einops    # which it imports
    python benchmarks/seed_toys.py CLONE [seeds=5] [samples=20000] [steps=2001] [toys=[three_gmm]]

Trained as its `cm_main.py` trains: diffusion first, then discrete consistency training, `steps`
updates of each on all samples at once. Nothing of it is changed; the clone is only imported.
"""

from __future__ import annotations

import datetime
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import read_options, show_help
from csv_rows import append_row, read_rows

from cmpolicy.toys.dataset import ToyDataset, find_toy
from cmpolicy.toys.distances import compare

HERE = Path(__file__).resolve().parent
STEPS = (1, 2, 4, 20)
TOYS = ["single_gaussian", "two_gmm", "uneven_two_gmm", "three_gmm"]


def main(arguments: list[str]) -> None:
    show_help(arguments)
    if not arguments or not (Path(arguments[0]) / "cm" / "cm.py").is_file():
        sys.exit("give the directory of a clone of consistency_models_toy_task")
    options = read_options(arguments[1:], {
        "seeds": 5, "samples": 20_000, "steps": 2001, "toys": TOYS, "out": str(HERE / "results"),
    })  # fmt: skip
    sys.path.insert(0, arguments[0])
    out = Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    path = out / "seed_toys.csv"
    for seed in range(options["seeds"]):
        for toy in options["toys"]:
            rows = read_rows(path)
            if not any((r["toy"], int(r["seed"])) == (toy, seed) for r in rows):
                append_row(path, run(toy, seed, options["samples"], options["steps"]))
                (out / "seed_toys.md").write_text(markdown(read_rows(path), options["steps"]))


def run(toy: str, seed: int, samples: int, steps: int) -> dict[str, Any]:
    """Train once with the settings of `cm_main.py`, and compare."""
    from cm.cm import ConsistencyModel  # type: ignore[import-not-found]

    torch.manual_seed(seed)
    np.random.seed(seed)
    x = ToyDataset(toy, samples, seed=seed).x
    condition = torch.zeros(samples, 1)
    model = ConsistencyModel(
        lr=1e-4, sampler_type="onestep", sigma_data=0.5, sigma_min=0.05, sigma_max=1,
        conditioned=False, device="cpu", rho=7, t_steps_min=100, t_steps=100, ema_rate=0.999,
        n_sampling_steps=20, use_karras_noise_conditioning=True,
    )  # fmt: skip
    begin = time.perf_counter()
    for step in range(steps):
        model.diffusion_train_step(x, condition, step, steps)
    model.update_target_network()
    for step in range(steps):
        model.train_step(x, condition, step, steps)
    seconds = time.perf_counter() - begin
    truth = find_toy(toy).quantiles(20_000)  # type: ignore[union-attr]
    shape, nothing = torch.zeros(20_000, 1), torch.zeros(20_000, 1)
    row: dict[str, Any] = {"toy": toy, "seed": seed, "seconds": round(seconds, 1)}
    for k in STEPS:
        if k == 1:
            y = model.sample_singlestep(shape, nothing)
        else:
            y = model.sample_multistep(shape, nothing, n_sampling_steps=k)
        scores = compare(y.detach(), truth)
        row |= {f"{k} {name}": round(scores[name], 5) for name in ("w1", "kl", "std_ratio")}
    return row


def markdown(rows: list[dict[str, str]], steps: int) -> str:
    now = datetime.datetime.now().astimezone().isoformat(timespec="minutes")
    columns = ("1 w1", "1 kl", "4 w1", "20 w1", "20 std_ratio", "seconds")
    lines = [
        "# A published toy code, on the same data with the same measures",
        "",
        f"github.com/mbreuss/consistency_models_toy_task, `cm_main.py`, {steps} + {steps} updates; "
        f"written by `benchmarks/seed_toys.py` on {now}. Mean ± standard error over seeds.",
        "",
        "| toy | seeds | W1, 1 step | KL, 1 step | W1, 4 | W1, 20 | std ratio, 20 | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for toy in dict.fromkeys(r["toy"] for r in rows):
        mine = [r for r in rows if r["toy"] == toy]
        cells = []
        for column in columns:
            values = np.array([float(r[column]) for r in mine])
            error = f" ± {values.std(ddof=1) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.3f}{error}")
        lines.append(f"| {toy} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
