"""Draw the pictures of docs/concepts.md from the toys: `python benchmarks/concept_figures.py`.

The first picture is exact: the paths of a mixture whose denoiser is known. The others train small
policies on a moving mixture and on the bandit, which takes a few minutes on one core.
`quick=true` trains them for a few updates. Options: out=DIRECTORY, quick.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from command_line import read_options
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cmpolicy import ConsistencyPolicy
from cmpolicy.toys.dataset import Bandit, find_toy
from cmpolicy.toys.distributions import GaussianMixture, MovingMixture

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).resolve().parents[1] / "docs" / "images"
OPTIONS: dict[str, Any] = {"out": str(OUT), "quick": False}
PATH, JUMP, DATA, BAD = "#9aa0a6", "#d1495b", "#2e6f95", "#c98b1d"
BETA = 1.5  # actions weigh exp(β A/RMS(A)), as in the agent `ac`, where it is 1
SCALE = 3.3  # of the mixture's actions, so that they lie within ±1


def denoiser(mixture: GaussianMixture, x: Tensor, sigma: float) -> Tensor:
    """E[x₀ | x] of a one-dimensional mixture with noise of deviation sigma, (n,)."""
    means, variances = mixture.means[:, 0], mixture.stds**2
    total = variances + sigma**2
    weights = mixture.weights.log() - 0.5 * (total.log() + (x[:, None] - means) ** 2 / total)
    posterior = (x[:, None] * variances + means * sigma**2) / total
    return (weights.softmax(1) * posterior).sum(1)


def ode_paths(mixture: GaussianMixture, start: Tensor, levels: Tensor) -> Tensor:
    """The probability-flow ODE dx/dσ = (x − D(x, σ))/σ by Heun's method, (levels, n)."""
    x, path = start, [start]
    for sigma, below in itertools.pairwise(levels):
        slope = (x - denoiser(mixture, x, float(sigma))) / sigma
        guess = x + (below - sigma) * slope
        again = (guess - denoiser(mixture, guess, float(below))) / below
        x = x + (below - sigma) * (slope + again) / 2
        path.append(x)
    return torch.stack(path)


def draw_paths(path: Path) -> None:
    """Paths from noise to data: small steps along one, and the jump to its end."""
    mixture = find_toy("three_gmm")
    assert isinstance(mixture, GaussianMixture)
    levels = torch.linspace(4 ** (1 / 7), 0.02 ** (1 / 7), 200, dtype=torch.float64) ** 7
    start = 4 * torch.special.ndtri((torch.arange(32, dtype=torch.float64) + 0.5) / 32)
    paths = ode_paths(mixture, start, levels).numpy()
    position = np.linspace(0, 1, len(levels))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8, 3.2), sharey=True, gridspec_kw={"width_ratios": [5, 1], "wspace": 0.04}
    )
    left.plot(position, paths, color=PATH, linewidth=0.7)
    steps, chosen = np.linspace(0, len(levels) - 1, 6).astype(int), 24
    left.plot(
        position[steps], paths[steps, chosen], "o-", color=DATA, label="diffusion: many small steps"
    )
    jump = {"arrowstyle": "->", "color": JUMP, "linewidth": 2, "connectionstyle": "arc3,rad=-0.12"}
    left.annotate("", (1, paths[-1, 7]), (0, paths[0, 7]), arrowprops=jump)
    left.plot([], [], color=JUMP, linewidth=2, label="consistency model: one jump")
    left.set(xlim=(-0.02, 1.02), ylim=(-7, 7), xticks=[0, 1], ylabel="action")
    left.set_xticklabels(["noise", "data"])
    left.legend(loc="upper right", frameon=False)
    grid = torch.linspace(-7, 7, 400, dtype=torch.float64)
    right.fill_betweenx(grid, 0, mixture.density(grid), color=DATA, alpha=0.4, linewidth=0)
    right.axis("off")
    finish(figure, path)


def trained(actions: Tensor, observations: Tensor, updates: int, weights: Any = 1.0) -> Any:
    """A policy that clones (n, 1) actions, each weighing as `weights` say; its averaged weights.

    It has more noise levels than the agents' default, so that it is a close clone.
    """
    torch.manual_seed(0)
    weights = torch.as_tensor(weights).expand(len(actions))
    policy = ConsistencyPolicy(1, 1, hidden=[128, 128], loss_options={"s1": 1280})
    policy.fit_normalizers(observations, actions)
    average = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates, eta_min=1e-5)
    for update in range(updates):
        i = torch.randint(len(actions), (1024,))
        loss = policy.loss(observations[i], actions[i], update / updates, weight=weights[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(policy)
    return average.module


def draw_modes(path: Path, updates: int) -> None:
    """Two ways to act in each situation: data, a Gaussian, a consistency policy, its mode."""
    toy = find_toy("moving_two_gmm")
    assert isinstance(toy, MovingMixture)
    actions, situations = toy.sample(20_000, torch.Generator().manual_seed(0))
    actions = (actions / SCALE).clamp(-0.99, 0.99)
    policy = trained(actions, situations, updates)
    some = slice(0, 1500)
    seen = situations[some].numpy()
    drawn = policy.act(seen)
    line = np.polyfit(situations[:, 0].numpy(), actions[:, 0].numpy(), 1)
    mean = np.polyval(line, situations[:, 0].numpy())
    spread = float((actions[:, 0].numpy() - mean).std())
    noise = np.random.default_rng(0).standard_normal(len(mean[some]))
    gaussian = mean[some] + spread * noise
    figure, axes = plt.subplots(1, 4, figsize=(9.5, 2.6), sharey=True)
    for axis, title, values, colour in (
        (axes[0], "recorded actions", actions[some, 0], DATA),
        (axes[1], "a Gaussian policy", gaussian, BAD),
        (axes[2], "a consistency policy", drawn[:, 0], JUMP),
        (axes[3], "its mode of 32", policy.act(seen, mode_of=32)[:, 0], JUMP),
    ):
        axis.scatter(situations[some, 0], values, s=3, color=colour, alpha=0.5, linewidth=0)
        axis.set_title(title, fontsize=10)
        axis.set(xlabel="situation", ylim=(-1, 1.05), xlim=(-1, 1))
    axes[0].set_ylabel("action")
    finish(figure, path)


def draw_guidance(path: Path, updates: int) -> None:
    """The bandit: the behaviour prefers the worse mode; weights by advantage prefer the better."""
    toy = find_toy("bandit")
    assert isinstance(toy, Bandit)
    data = toy.transitions(20_000, torch.Generator().manual_seed(0))
    advantage = data.rewards - data.rewards.mean()
    weights = (BETA * advantage / advantage.square().mean().sqrt()).exp()
    lines = {"recorded": data.actions[:, 0].numpy()}
    for name, each in (
        ("cloned", 1.0),
        ("cloned, weighted by advantage", weights / weights.mean()),
    ):
        policy = trained(data.actions, data.observations, updates, each)
        lines[name] = policy.act(np.zeros((4000, 1)))[:, 0]
    figure, axis = plt.subplots(figsize=(8, 2.6))
    grid = torch.linspace(-1, 1, 400)[:, None]
    axis.plot(grid[:, 0], 4 * toy.reward(grid), color="black", linewidth=1, label="reward")
    for (name, values), colour in zip(lines.items(), (DATA, PATH, JUMP), strict=True):
        filled = {"histtype": "stepfilled", "alpha": 0.35} if name == "recorded" else {}
        options = {"histtype": "step", "linewidth": 1.8, **filled}
        axis.hist(values, 60, range=(-1, 1), density=True, color=colour, label=name, **options)
    axis.set(xlabel="action", yticks=[], xlim=(-1, 1))
    axis.legend(frameon=False, ncols=4, loc="upper center")
    axis.margins(y=0.25)
    finish(figure, path)


def finish(figure: Any, path: Path) -> None:
    """Write a small PNG."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, bbox_inches="tight", pil_kwargs={"optimize": True})
    plt.close(figure)
    print(f"{path} ({path.stat().st_size / 1e3:.0f} kB)")


def main() -> None:
    options = read_options(sys.argv[1:], OPTIONS)
    out, few = Path(options["out"]), options["quick"]
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    draw_paths(out / "paths.png")
    draw_modes(out / "modes.png", 5 if few else 6000)
    draw_guidance(out / "guidance.png", 5 if few else 4000)


if __name__ == "__main__":
    main()
