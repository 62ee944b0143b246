"""Do one-step samples keep the data's action modes? benchmarks/results/multimodality.{md,json,png}

    python benchmarks/multimodality.py data=FILE [updates=15000] [seeds=2] [states=6000]
    python benchmarks/multimodality.py data=FILE quick=true      seconds, to see that it works

FILE has D4RL's layout and comes from several behaviours. `agent=bc` and two Gaussian actors, the
same network, updates and average, learn half of its episodes. The other half is what they are
measured on: around a state, the `NEIGHBOURS` nearest observations of other episodes are halved by
rank. Every policy is asked for one action at each observation of the one half, and its actions are
held against those recorded in the other. The floor is what was recorded in the one half: what a
perfect policy would get.

recall      share of the recorded actions with a sample within `RADIUS`
precision   share of the samples with a recorded action within `RADIUS`
energy      2 E|X − Y| − E|X − X'| − E|Y − Y'|, 0 between equal distributions (Székely & Rizzo 2013)
both modes  at states of two modes: how often each of them has at least half of its share of the
            samples within `RADIUS`

A state has two modes where a cut across the principal axis of all its neighbours' actions takes
`EXPLAINED` of their variance away, and leaves `MINOR` of them on either side.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from command_line import given_options
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor, nn

from cmpolicy.agents import AGENTS, Spaces
from cmpolicy.consistency.ema import ema_update
from cmpolicy.datasets.resolve import resolve_dataset
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.training.machine import machine_name

Array = NDArray[Any]
Sample = Callable[[Array], Array]  # (N, obs_dim) → (N, action_dim)
HERE = Path(__file__).resolve().parent
PACKAGES = ("cmpolicy", "torch", "numpy", "scipy")
DEFAULTS: dict[str, Any] = {
    "data": None, "updates": 15_000, "seeds": 2, "states": 6_000, "quick": False,
    "out": str(HERE / "results"),
}  # fmt: skip
QUICK = {"updates": 30, "seeds": 1, "states": 200}
NEIGHBOURS, RADIUS = 64, 0.25
EXPLAINED, MINOR, SPREAD = 0.7, 0.15, 0.5
DATA = "the data itself"
NAMES = {
    DATA: "0.35",
    "consistency, 1 step": "C0",
    "consistency, 2 steps": "C9",
    "Gaussian": "C1",
    "Gaussian through tanh": "C3",
}
MEASURES = ("recall", "precision", "energy", "both modes")


class Places(NamedTuple):
    """Held-out states and what was recorded around them.

    Attributes:
        asked: (S, k, obs_dim) observations at which policies are asked for actions.
        floor: (S, k, action_dim) actions recorded there.
        recorded: (S, k, action_dim) actions of the other neighbours, to compare with.
        first_mode: (S, k) bool, which of these are on one side of the cut.
        two_modes: (S,) bool.
        clarity: (S,) share of the variance that the cut takes away.
        distance: (S,) of the farthest neighbour, in standard deviations of observations.
    """

    asked: Array
    floor: Array
    recorded: Array
    first_mode: Array
    two_modes: Array
    clarity: Array
    distance: Array


class GaussianActor(nn.Module):
    """N(μ(s), diag σ(s)²) by maximum likelihood, of actions or, `tanh`, of atanh a.

    Without tanh samples are clipped to ±1.
    """

    def __init__(self, train: TransitionDataset, tanh: bool) -> None:
        super().__init__()
        self.tanh = tanh
        self.mean, self.std = train.observation_mean, train.observation_std
        self.layers = nn.Sequential(
            nn.Linear(train.obs_dim, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(),
            nn.Linear(256, 2 * train.action_dim),
        )  # fmt: skip

    def forward(self, observations: Tensor) -> torch.distributions.Normal:
        mean, log_std = self.layers((observations - self.mean) / self.std).chunk(2, dim=1)
        return torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())

    def loss(self, observations: Tensor, actions: Tensor) -> Tensor:
        if self.tanh:
            actions = actions.clamp(-0.999, 0.999).atanh()
        return -self(observations).log_prob(actions).sum(1).mean()

    @torch.no_grad()
    def sample(self, observations: Array) -> Array:
        x = self(torch.from_numpy(observations)).sample()
        return (x.tanh() if self.tanh else x.clamp(-1, 1)).numpy()


def main(arguments: list[str]) -> None:
    given = given_options(arguments, DEFAULTS)
    options = DEFAULTS | (QUICK if given.get("quick") else {}) | given
    if not options["data"]:
        sys.exit("data is missing; give data=FILE, of several behaviours, in D4RL's layout")
    torch.set_num_threads(1)
    dataset = resolve_dataset("multimodality", path=options["data"])
    rng = np.random.default_rng(0)
    train, held_out = halves(dataset, rng)
    places = neighbourhoods(dataset, held_out, options["states"], rng)
    if not places.two_modes.any():
        sys.exit("no state has actions of two modes around it; give data of several behaviours")
    runs = []
    for seed in range(options["seeds"]):
        policies = trained(train, options["updates"], seed)
        torch.manual_seed(1000 + seed)
        answers = {name: asked(policy, places.asked) for name, policy in policies.items()}
        answers = {DATA: places.floor, **answers}
        runs.append({name: measure(actions, places) for name, actions in answers.items()})
    result = {
        "data": Path(options["data"]).name,
        "transitions": len(dataset),
        "updates": options["updates"],
        "seeds": options["seeds"],
        "states": len(places.clarity),
        "states_of_two_modes": int(places.two_modes.sum()),
        "at_bounds": at_bounds(places),
        "distance_of_neighbours": float(np.median(places.distance)),
        "rows": [row(name, runs) for name in runs[0]],
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "machine": machine_name(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    out = Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    (out / "multimodality.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "multimodality.md").write_text(markdown(result))
    panels = [panel(places, policies, state) for state in examples(places)]
    draw(out / "multimodality.png", panels, result)
    print(markdown(result))


# The data -------------------------------------------------------------------------------------


def halves(dataset: TransitionDataset, rng: np.random.Generator) -> tuple[TransitionDataset, Array]:
    """Half of the episodes to learn, and the numbers of the other half's transitions."""
    ends = dataset.episode_ends.numpy()
    episode = np.cumsum(np.append(False, ends[:-1]))
    learnt = np.isin(episode, rng.permutation(ends.sum())[: ends.sum() // 2])
    index = torch.from_numpy(np.flatnonzero(learnt))
    part = type(dataset.transitions)(*(column[index] for column in dataset.transitions))
    return TransitionDataset(part, dataset.episode_ends[index], dataset.info), np.flatnonzero(
        ~learnt
    )


def neighbourhoods(
    dataset: TransitionDataset, held_out: Array, states: int, rng: np.random.Generator
) -> Places:
    """`states` held-out states drawn at random, with their neighbours of other episodes."""
    observations = dataset.observations.numpy()
    actions = dataset.actions.numpy()
    episode = np.cumsum(np.append(False, dataset.episode_ends.numpy()[:-1]))
    z = (observations / dataset.observation_std.numpy())[held_out]
    tree = cKDTree(z)
    near, far = [], []
    for i in rng.choice(len(held_out), min(states, len(held_out)), replace=False):
        distance, found = tree.query(z[i], k=min(6 * NEIGHBOURS, len(held_out)))
        other = episode[held_out[found]] != episode[held_out[i]]
        if other.sum() >= NEIGHBOURS:  # a long stay in one place has its own episode around it
            near.append(held_out[found[other][:NEIGHBOURS]])
            far.append(distance[other][NEIGHBOURS - 1])
    index = np.stack(near)
    around = actions[index]
    cut = [best_cut(a) for a in around]
    first = np.stack([side for side, _ in cut])
    clarity = np.array([explained for _, explained in cut])
    minor = np.minimum(first.mean(1), 1 - first.mean(1))
    spread = np.sqrt(around.var(1).sum(1))
    return Places(
        observations[index[:, ::2]],
        around[:, ::2],
        around[:, 1::2],
        first[:, 1::2],
        (clarity >= EXPLAINED) & (minor >= MINOR) & (spread >= SPREAD),
        clarity,
        np.array(far),
    )


def best_cut(actions: Array) -> tuple[Array, float]:
    """The cut across the principal axis that takes most variance away: (one side, share of it)."""
    centred = actions - actions.mean(0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    order = np.argsort(along)
    below = np.arange(1, len(actions))
    sums = np.cumsum(centred[order], 0)[:-1]
    between = np.square(sums).sum(1) * (1 / below + 1 / (len(actions) - below))
    side = np.zeros(len(actions), dtype=bool)
    side[order[: between.argmax() + 1]] = True
    return side, float(between.max() / max(np.square(centred).sum(), 1e-9))


def at_bounds(places: Places) -> float:
    """Share of the entries of recorded actions that are at ±1, where there are two modes."""
    recorded = np.concatenate((places.floor, places.recorded), axis=1)[places.two_modes]
    return float((np.abs(recorded) > 0.95).mean())


# The policies ---------------------------------------------------------------------------------


def trained(train: TransitionDataset, updates: int, seed: int) -> dict[str, Sample]:
    """The policies by name, from the same seed and with as many updates."""
    config = AGENTS["bc"].Config()
    batch, rate, decay = 256, config.learning_rate, config.ema_decay
    torch.manual_seed(seed)
    ones = [1.0] * train.action_dim
    agent = AGENTS["bc"](Spaces(train.obs_dim, [-one for one in ones], ones), config, updates)
    data = agent.prepare(train)
    for _ in range(updates):
        agent.update(data.sample(batch))
    policies: dict[str, Sample] = {
        "consistency, 1 step": lambda obs: agent.act(obs, mode_of=1),
        "consistency, 2 steps": lambda obs: agent.act(obs, steps=2, mode_of=1),
    }
    for name, tanh in (("Gaussian", False), ("Gaussian through tanh", True)):
        torch.manual_seed(seed)
        actor, average = GaussianActor(train, tanh), GaussianActor(train, tanh)
        average.load_state_dict(actor.state_dict())
        optimizer = torch.optim.Adam(actor.parameters(), lr=rate, fused=True)
        for _ in range(updates):
            drawn = train.sample(batch)
            optimizer.zero_grad()
            actor.loss(drawn.observations, drawn.actions).backward()
            optimizer.step()
            ema_update(average, actor, decay)
        policies[name] = average.sample
    return policies


def asked(policy: Sample, observations: Array) -> Array:
    """One action at each observation: (S, k, obs_dim) → (S, k, action_dim)."""
    flat = policy(observations.reshape(-1, observations.shape[-1]))
    return flat.reshape(*observations.shape[:2], -1)


# The measure ----------------------------------------------------------------------------------


def measure(samples: Array, places: Places) -> dict[str, dict[str, float]]:
    """Every measure, over all states and over those of two modes."""
    recorded = places.recorded
    apart = distances(samples, recorded)  # (S, samples, recorded)
    near = apart <= RADIUS
    share = places.first_mode.mean(1)
    nearest = np.take_along_axis(places.first_mode, apart.argmin(2), 1)  # the mode of a sample
    counted = near.any(2)
    first, second = (nearest & counted).mean(1), (~nearest & counted).mean(1)
    k = recorded.shape[1]
    within = [distances(x, x).sum((1, 2)) / (k * (k - 1)) for x in (samples, recorded)]
    by_state = {
        "recall": near.any(1).mean(1),
        "precision": counted.mean(1),
        "energy": 2 * apart.mean((1, 2)) - within[0] - within[1],
        "both modes": (first >= share / 2) & (second >= (1 - share) / 2),
    }
    two = places.two_modes
    return {
        "all": {key: float(v.mean()) for key, v in by_state.items() if key != "both modes"},
        "two modes": {
            key: float(v[two].mean()) if two.any() else 0.0 for key, v in by_state.items()
        },
    }


def distances(x: Array, y: Array) -> Array:
    """Euclidean, state by state: (S, n, d), (S, m, d) → (S, n, m)."""
    return np.linalg.norm(x[:, :, None] - y[:, None], axis=-1)


def row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds, and the half of the range between them."""
    cells: dict[str, Any] = {"name": name}
    for where in ("all", "two modes"):
        for key in runs[0][name][where]:
            values = [run[name][where][key] for run in runs]
            cells[f"{where}: {key}"] = [float(np.mean(values)), float(np.ptp(values) / 2)]
    return cells


# What a reader sees ---------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    keys = [*(f"two modes: {m}" for m in MEASURES), *(f"all: {m}" for m in MEASURES[:3])]
    heads = [key.replace("two modes: ", "") for key in keys[:4]]
    heads += [key.replace("all: ", "all states: ") for key in keys[4:]]
    lines = [
        "# Modes of actions, recalled in one step",
        "",
        "![data, consistency policy and Gaussians](multimodality.png)",
        "",
        f"At the {result['states_of_two_modes']} of {result['states']} held-out states whose "
        "neighbours' actions fall into two modes; the last three columns at all of them.",
        "",
        f"| | {' | '.join(heads)} |",
        "|" + "---|" * (len(heads) + 1),
    ]
    for r in result["rows"]:
        cells = [
            f"{mean:.3f}" + ("" if r["name"] == DATA else f" ± {half:.3f}")
            for mean, half in (r[key] for key in keys)
        ]
        lines.append(f"| {r['name']} | {' | '.join(cells)} |")
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    lines += [
        "",
        "Recall: share of the recorded actions with a sample within "
        f"{RADIUS} (actions run from −1 to 1); precision: share of the samples with a recorded "
        "action within as much; energy: the energy distance between samples and recorded actions, "
        "0 between equal distributions; both modes: how often each of the two has at least half of "
        f"its share of the samples as near. Around a state, its {NEIGHBOURS} nearest observations "
        "of other episodes "
        f"(the farthest {result['distance_of_neighbours']:.2f} standard deviations away, in the "
        "median) are halved by rank: policies are asked once at each of the one half, and compared "
        f"with the actions of the other. *{DATA}* is what was recorded where they are asked, which "
        "no policy can beat but by chance. Two modes: a cut across the principal axis takes "
        f"{EXPLAINED:.0%} of the variance away (a Gaussian's loses at most 64 %, where it is a "
        f"line). There {result['at_bounds']:.0%} of the entries of recorded actions are within "
        "0.05 of ±1, where tanh puts the mass of a wide Gaussian: modes of this kind are the ones "
        "that it can have, each entry for itself.",
        "",
        f"`{result['data']}`, {result['transitions']} transitions, half of the episodes learnt and "
        f"the other half measured; {result['updates']} updates of 256, networks of 2×256; mean "
        f"and half the range of {result['seeds']} seeds. Written by "
        f"`benchmarks/multimodality.py` on {result['date']}; {result['machine']}; {versions}.",
    ]
    return "\n".join(lines) + "\n"


def panel(places: Places, policies: dict[str, Sample], state: int) -> dict[str, Array]:
    """What was recorded around a state, and twice as many samples of every policy there."""
    recorded = np.concatenate((places.floor[state], places.recorded[state]))
    observations = np.repeat(places.asked[state], 4, axis=0)
    return {DATA: recorded} | {name: policy(observations) for name, policy in policies.items()}


def draw(path: Path, panels: list[dict[str, Array]], result: dict[str, Any]) -> None:
    """States in the two actions that vary most, and below them every measure."""
    columns = [DATA, "consistency, 1 step", "Gaussian", "Gaussian through tanh"]
    figure = Figure(figsize=(11, 3 * len(panels) + 2.6), layout="constrained")
    grid = figure.add_gridspec(len(panels) + 1, 4, height_ratios=[3] * len(panels) + [2])
    for i, actions in enumerate(panels):
        recorded = actions[DATA]
        x, y = (int(axis) for axis in np.sort(np.argsort(recorded.var(0))[-2:]))
        for j, name in enumerate(columns):
            axes = figure.add_subplot(grid[i, j])
            axes.scatter(recorded[:, x], recorded[:, y], s=90, color="0.88", clip_on=False)
            drawn = actions[name]
            axes.scatter(
                drawn[:, x], drawn[:, y], s=16, alpha=0.5, color=NAMES[name], linewidths=0,
                clip_on=False, zorder=3,
            )  # fmt: skip
            axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xlabel=f"action {x + 1}")
            axes.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1))
            axes.set_ylabel(f"action {y + 1}" if j == 0 else "")
            if i == 0:
                axes.set_title(name + ("" if name == DATA else "\non the data (grey)"), fontsize=10)
            if j == 0:
                axes.annotate(
                    f"state {'AB'[i]}", (-0.42, 0.5), xycoords="axes fraction", rotation=90,
                    va="center", weight="bold",
                )  # fmt: skip
    for j, name in enumerate(("recall", "precision", "both modes", "energy")):
        bars(figure.add_subplot(grid[len(panels), j]), name, result["rows"], labelled=j == 0)
    figure.savefig(path, dpi=120)


def bars(axes: Any, name: str, rows: list[dict[str, Any]], labelled: bool) -> None:
    """One measure at states of two modes, a bar a policy."""
    for i, r in enumerate(reversed(rows)):
        mean, half = r[f"two modes: {name}"]
        axes.barh(i, mean, color=NAMES[r["name"]], xerr=half or None)
        axes.text(max(mean, 0) + half, i, f" {mean:.2f}", va="center", fontsize=8)
    labels = [r["name"] for r in reversed(rows)] if labelled else [""] * len(rows)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_xlabel("at states of two modes", fontsize=8)
    axes.margins(x=0.2)
    axes.set_title(name + (", lower is better" if name == "energy" else ""), fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def examples(places: Places) -> list[int]:
    """Two states, by the data alone: the nearest neighbours among those cut most clearly."""
    share = places.first_mode.mean(1)
    fair = places.two_modes & (np.minimum(share, 1 - share) >= 0.3)
    candidates = np.flatnonzero(fair if fair.sum() >= 2 else places.clarity >= 0)
    clear = candidates[np.argsort(-places.clarity[candidates])][: max(2, len(candidates) // 5)]
    first, *others = clear[np.argsort(places.distance[clear])]
    middle = places.asked.mean(1)
    away = [float(np.linalg.norm(middle[i] - middle[first])) for i in others]
    return [int(first), int(others[int(np.argmax(away))])]


if __name__ == "__main__":
    main(sys.argv[1:])
