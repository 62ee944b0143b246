"""Why many steps drift in a published toy code: benchmarks/results/seed_drift.md.

    git clone https://github.com/mbreuss/consistency_models_toy_task CLONE
    pip install einops    # which it imports
    python benchmarks/seed_drift.py CLONE [samples=1000] [steps=2001]

Its sampler is run with the exact consistency function of the mixture, then with that function
stretched by 3 %, then with networks that its own code trains: as shipped, longer, and with one
thing changed at a time. Nothing of the clone is changed on disk.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import read_options, show_help
from torch import Tensor

from cmpolicy.consistency.loss_metrics import edm_weight
from cmpolicy.consistency.solvers import solve
from cmpolicy.toys.dataset import ToyDataset, find_toy
from cmpolicy.toys.distances import std_ratio, wasserstein_1d
from cmpolicy.toys.distributions import GaussianMixture
from cmpolicy.training.machine import machine_name

HERE = Path(__file__).resolve().parent
TOY, N = "three_gmm", 20_000
SIGMA_MIN, SIGMA_MAX = 0.05, 1.0
LEVELS = np.linspace(SIGMA_MAX, SIGMA_MIN, 20)[:-1].tolist()  # its linear schedule
PROBES = (1.0, 0.6, 0.4, 0.2)
Function = Callable[[Tensor, float], Tensor]
VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "trained four times as long": {"longer": 4},
    "slow time embedding (scale 1, not 30)": {"embedding": 1.0},
    "σ_d of the data (1.24, not 0.5)": {"sigma_data": 1.24},
    "levels weighed by 1/c_out²": {"weigh": True},
    "all three": {"embedding": 1.0, "sigma_data": 1.24, "weigh": True},
}


def main(arguments: list[str]) -> None:
    show_help(arguments)
    if not arguments or not (Path(arguments[0]) / "cm" / "cm.py").is_file():
        sys.exit("give the directory of a clone of consistency_models_toy_task")
    options = read_options(
        arguments[1:], {"samples": 1000, "steps": 2001, "out": str(HERE / "results")}
    )
    sys.path.insert(0, arguments[0])
    rows = [
        ("the exact function, its sampler", measure(exact)),
        ("the exact function times 1.03", measure(lambda x, s: 1.03 * exact(x, s))),
    ]
    for name, changes in VARIANTS.items():
        rows.append((name, measure(trained(options["samples"], options["steps"], **changes))))
        print(*rows[-1], flush=True)
    (Path(options["out"]) / "seed_drift.md").write_text(markdown(rows, options))


def exact(x: Tensor, sigma: float) -> Tensor:
    """The probability-flow ODE of the mixture itself, by 60 of Heun's steps."""
    toy = find_toy(TOY)
    assert isinstance(toy, GaussianMixture)
    weights, means, stds = toy.weights, toy.means[:, 0], toy.stds

    def denoise(x: Tensor, s: Tensor) -> Tensor:
        variance = stds**2 + s[:, None] ** 2
        logits = weights.log() - 0.5 * variance.log() - 0.5 * (x - means) ** 2 / variance
        posterior = means + stds**2 / variance * (x - means)
        return (logits.softmax(1) * posterior).sum(1, keepdim=True)

    levels = np.geomspace(sigma, SIGMA_MIN, 60).tolist()
    return solve(denoise, x.double() / levels[0], levels, "heun").float()


def trained(
    samples: int,
    steps: int,
    longer: int = 1,
    embedding: float = 30.0,
    sigma_data: float = 0.5,
    weigh: bool = False,
) -> Function:
    """Its averaged network after diffusion and consistency training as in its `cm_main.py`."""
    from cm.cm import ConsistencyModel  # type: ignore[import-not-found]

    torch.manual_seed(0)
    np.random.seed(0)
    x, condition = ToyDataset(TOY, samples, seed=0).x, torch.zeros(samples, 1)
    model = ConsistencyModel(
        lr=1e-4, sampler_type="onestep", sigma_data=sigma_data, sigma_min=SIGMA_MIN,
        sigma_max=SIGMA_MAX, conditioned=False, device="cpu", rho=7, t_steps_min=100, t_steps=100,
        ema_rate=0.999, n_sampling_steps=20, use_karras_noise_conditioning=True,
    )  # fmt: skip
    for network in (model.model, model.target_model):
        network.embed.W.data *= embedding / 30

    def weighted_loss(x: Tensor, condition: Tensor, high: Tensor, low: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        f = model.consistency_wrapper(model.model, x + high * noise, condition, high)
        with torch.no_grad():
            target = model.consistency_wrapper(model.target_model, x + low * noise, condition, low)
        return (edm_weight(high, sigma_data) * (f - target) ** 2).mean()

    if weigh:
        model.consistency_loss = weighted_loss
    for step in range(longer * steps):
        model.diffusion_train_step(x, condition, step, longer * steps)
    model.update_target_network()
    for step in range(longer * steps):
        model.train_step(x, condition, step, longer * steps)
    model.model.load_state_dict(model.ema_params)
    model.model.eval()
    nothing = torch.zeros(N, 1)
    return lambda x, sigma: model.consistency_wrapper(
        model.model, x, nothing, torch.full((N,), float(sigma))
    )


@torch.no_grad()
def measure(f: Function) -> dict[str, float]:
    """Its multistep sampler, from 1.5 σ_max z; and f applied once to true samples with noise."""
    toy = find_toy(TOY)
    assert isinstance(toy, GaussianMixture)
    truth = toy.quantiles(N)
    generator = torch.Generator().manual_seed(0)

    def renoised(x: Tensor, sigma: float) -> Tensor:
        spread = max(sigma**2 - SIGMA_MIN**2, 0.0) ** 0.5
        return x + spread * torch.randn(x.shape, generator=generator)

    x = f(1.5 * SIGMA_MAX * torch.randn(N, 1, generator=generator), SIGMA_MAX)
    row = {"W1, 1 step": wasserstein_1d(x, truth), "std, 1 step": std_ratio(x, truth)}
    for sigma in LEVELS[1:]:
        x = f(renoised(x, sigma), sigma)
    row |= {"W1, 20 steps": wasserstein_1d(x, truth), "std, 20 steps": std_ratio(x, truth)}
    true = toy.sample(N, generator)
    for sigma in PROBES:
        row[f"once at {sigma:g}"] = std_ratio(f(renoised(true, sigma), sigma), truth)
    return row


def markdown(rows: list[tuple[str, dict[str, float]]], options: dict[str, Any]) -> str:
    now = datetime.datetime.now().astimezone().isoformat(timespec="minutes")
    names = list(rows[0][1])
    lines = [
        "# Why many steps drift outward in a published toy code",
        "",
        f"github.com/mbreuss/consistency_models_toy_task on {TOY}, {options['samples']} samples, "
        f"{options['steps']} + {options['steps']} updates, seed 0; written by "
        f"`benchmarks/seed_drift.py` on {now}, torch {torch.__version__}, {machine_name()}. "
        "std: of the samples over that of the truth. Last columns: f applied once to "
        "true samples with noise of that level, where 1 is right.",
        "",
        f"| consistency function | {' | '.join(names)} |",
        "|---|" + "---|" * len(names),
        *(f"| {name} | {' | '.join(f'{row[key]:.3f}' for key in names)} |" for name, row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
