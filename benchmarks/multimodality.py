"""Do one-step samples keep the data's action modes? benchmarks/results/multimodality.{md,json,png}

    python benchmarks/multimodality.py data=FILE [updates=50000] [seeds=2] [states=6000]
    python benchmarks/multimodality.py data=FILE quick=true      seconds, to see that it works

FILE has D4RL's layout and comes from several behaviours. `agent=bc`, two Gaussian actors of the
same network, updates, learning rates and average, and `agent=ac` learn half of its episodes; the
other half is what they are measured on, as `multimodality_measure.py` says. The floor is what was
recorded where policies are asked: what a perfect policy would get.

To be as near to the data as possible is not what scores most, so `agent=bc` has other settings than
its own here: no weight decay, and as many levels as iCT has for images. `agent=ac` is as it comes.
Its clone imitates what turned out well, its actor is moved away from that clone by critics: what
guidance does to modes is the difference between the two.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import given_options
from multimodality_figure import DATA, draw
from multimodality_measure import (
    EXPLAINED,
    MEASURES,
    NEIGHBOURS,
    RADIUS,
    Array,
    Places,
    at_bounds,
    episode_numbers,
    examples,
    measure,
    neighbourhoods,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from cmpolicy.agents import Agent, ConsistencyAC, ConsistencyBC, Spaces
from cmpolicy.agents.ac import ACConfig
from cmpolicy.agents.agent import LOWEST_RATE
from cmpolicy.agents.bc import BCConfig
from cmpolicy.consistency.ema import ema_update
from cmpolicy.datasets.resolve import resolve_dataset
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.policy.config import PolicyConfig
from cmpolicy.training.machine import machine_name

Sample = Callable[[Array], Array]  # (N, obs_dim) → (N, action_dim)
HERE = Path(__file__).resolve().parent
PACKAGES = ("cmpolicy", "torch", "numpy", "scipy")
DEFAULTS: dict[str, Any] = {
    "data": None, "updates": 50_000, "seeds": 2, "states": 6_000, "quick": False,
    "out": str(HERE / "results"),
}  # fmt: skip
QUICK = {"updates": 30, "seeds": 1, "states": 200}
BATCH, LEARNING_RATE, LEVELS = 256, 1e-3, 1280


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


def halves(dataset: TransitionDataset, rng: np.random.Generator) -> tuple[TransitionDataset, Array]:
    """Half of the episodes to learn, and the numbers of the other half's transitions."""
    episode, count = episode_numbers(dataset), int(dataset.episode_ends.sum())
    learnt = np.isin(episode, rng.permutation(count)[: count // 2])
    index = torch.from_numpy(np.flatnonzero(learnt))
    part = type(dataset.transitions)(*(column[index] for column in dataset.transitions))
    train = TransitionDataset(part, dataset.episode_ends[index], dataset.info)
    return train, np.flatnonzero(~learnt)


def trained(train: TransitionDataset, updates: int, seed: int) -> dict[str, Sample]:
    """The policies by name, from the same seed and with as many updates."""
    ones = [1.0] * train.action_dim
    spaces = Spaces(train.obs_dim, [-one for one in ones], ones)
    config = BCConfig(
        policy=PolicyConfig(loss_options={"s1": LEVELS}),
        learning_rate=LEARNING_RATE, cosine_decay=True, weight_decay=0.0,
    )  # fmt: skip
    torch.manual_seed(seed)
    clone = ConsistencyBC(spaces, config, updates)
    learn(clone, train, updates)
    torch.manual_seed(seed)
    guided = ConsistencyAC(spaces, ACConfig(), updates)
    learn(guided, train, updates)
    policies: dict[str, Sample] = {
        "consistency, 1 step": lambda obs: clone.act(obs, mode_of=1),
        "consistency, 2 steps": lambda obs: clone.act(obs, steps=2, mode_of=1),
        "ac's clone, 1 step": guided.average_clone.act,
        "ac's actor, 1 step": lambda obs: guided.act(obs, mode_of=1),
    }
    decay = clone.average_decay  # where it ends
    for name, tanh in (("Gaussian", False), ("Gaussian through tanh", True)):
        torch.manual_seed(seed)
        actor, average = GaussianActor(train, tanh), GaussianActor(train, tanh)
        average.load_state_dict(actor.state_dict())
        optimizer = torch.optim.Adam(actor.parameters(), lr=LEARNING_RATE, fused=True)
        falling = CosineAnnealingLR(optimizer, updates, eta_min=LEARNING_RATE * LOWEST_RATE)
        for _ in range(updates):
            drawn = train.sample(BATCH)
            optimizer.zero_grad()
            actor.loss(drawn.observations, drawn.actions).backward()
            optimizer.step()
            falling.step()
            ema_update(average, actor, decay)
        policies[name] = average.sample
    return policies


def learn(agent: Agent, train: TransitionDataset, updates: int) -> None:
    """So many updates."""
    data = agent.prepare(train)
    for _ in range(updates):
        agent.update(data.sample(BATCH))


def asked(policy: Sample, observations: Array) -> Array:
    """One action at each observation: (S, k, obs_dim) → (S, k, action_dim)."""
    flat = policy(observations.reshape(-1, observations.shape[-1]))
    return flat.reshape(*observations.shape[:2], -1)


def row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds, and the half of the range between them."""
    cells: dict[str, Any] = {"name": name}
    for where in ("all", "two modes"):
        for key in runs[0][name][where]:
            values = [run[name][where][key] for run in runs]
            cells[f"{where}: {key}"] = [float(np.mean(values)), float(np.ptp(values) / 2)]
    return cells


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
        f"the other half measured; {result['updates']} updates of 256, networks of 2×256, a "
        f"learning rate of {LEARNING_RATE:g} that falls along a cosine, iCT with s1 = "
        f"{LEVELS}; `ac` is the default agent as it comes: its clone imitates good actions more, "
        "and what guidance changes is its actor against that clone; mean and half the range of "
        f"{result['seeds']} seeds. Written by `benchmarks/multimodality.py` on "
        f"{result['date']}; {result['machine']}; {versions}.",
    ]
    return "\n".join(lines) + "\n"


def panel(places: Places, policies: dict[str, Sample], state: int) -> dict[str, Array]:
    """What was recorded around a state, and twice as many samples of every policy there."""
    recorded = np.concatenate((places.floor[state], places.recorded[state]))
    observations = np.repeat(places.asked[state], 4, axis=0)
    return {DATA: recorded} | {name: policy(observations) for name, policy in policies.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
