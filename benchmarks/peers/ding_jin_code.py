"""Ding & Jin's own Consistency-AC on our data, evaluated as ours: one run.

    git clone https://github.com/quantumiracle/Consistency_Model_For_Reinforcement_Learning REPO
    python benchmarks/peers/ding_jin_code.py REPO [overrides of the train command] run_dir=DIR

Nothing of theirs is copied: their agent is imported from REPO, and their settings per task are read
from REPO/offline.py, which cannot itself be imported without d4rl. They run 50,000 updates between
evaluations, and their curriculum of levels begins anew with each; so it does here.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from peer import FloatArray, PeerRun

from cmpolicy.cli.command import run
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.rl.config import RLConfig

PERIOD = 50_000  # updates of one call of their `train`: eval_freq 50 × num_steps_per_epoch 1000
# Tasks of theirs whose settings stand for sets that they did not tune.
NEAREST = {"pen": "pen-human-v1", "door": "pen-human-v1"}


def settings_of(repository: Path, name: str) -> dict[str, Any]:
    """Their hyperparameters of a task, from the table in offline.py.

    Raises:
        InputError: if there is no such table, or none of its tasks fits.
    """
    source = repository / "offline.py"
    if not source.is_file():
        raise InputError(f"no offline.py in {repository}, expected a clone of their repository")
    table = literal(source, "consistency_hyperparameters")
    task = f"{name.replace('-mixed', '-medium-replay')}-v2"
    task = task if task in table else NEAREST.get(name.partition("-")[0], task)
    if task not in table:
        raise InputError(f"no settings for {name}; theirs are for: {', '.join(table)}")
    return {"task": task, **table[task]}


def literal(source: Path, name: str) -> dict[str, dict[str, Any]]:
    """The value of a literal at the top of a Python file, which is not executed."""
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            value: dict[str, dict[str, Any]] = ast.literal_eval(node.value)
            return value
    raise InputError(f"{source} has no {name}; this adapter does not know that version")


class Sampler:
    """What their `train` draws batches from; between two draws an update has been made."""

    def __init__(self, dataset: TransitionDataset, peer_run: PeerRun) -> None:
        self.dataset, self.peer_run = dataset, peer_run
        self.drawn = 0

    def sample(self, batch_size: int) -> tuple[torch.Tensor, ...]:
        """(state, action, next state, reward (B, 1), not done (B, 1))."""
        if self.drawn:
            self.peer_run.after_update(self.drawn)
        self.drawn += 1
        b = self.dataset.sample(batch_size)
        rewards, going_on = b.rewards[:, None], 1 - b.terminals[:, None]
        return b.observations, b.actions, b.next_observations, rewards, going_on


class DingJinPeer:
    """Their agent, which takes one of fifty actions by softmax of Q, an observation at a time."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent

    def act(self, observations: FloatArray, generator: torch.Generator) -> FloatArray:
        """Their `sample_action` for every row at once: the same law, in one call."""
        agent, count, rows = self.agent, 50, torch.arange(len(observations))
        state = torch.from_numpy(observations).to(agent.device)
        device = generator.device
        seed = int(torch.randint(2**31, (), generator=generator, device=device))
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)  # their sampler knows only the global generator
            repeated = state.repeat_interleave(count, dim=0)
            actions = agent.actor.sample(repeated)
            values = agent.critic_target.q_min(repeated, actions).view(-1, count)
            chosen = torch.multinomial(values.softmax(1), 1).squeeze(1)
        taken: FloatArray = actions.view(len(rows), count, -1)[rows, chosen].cpu().numpy()
        return taken

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.agent.save_model(str(path))

    def load(self, path: Path) -> None:
        self.agent.load_model(str(path))


def build(repository: Path, task: Any, settings: dict[str, Any], device: torch.device) -> Any:
    """Their agent for a task of ours, with what their offline.py passes on."""
    sys.path.insert(0, str(repository))
    from agents.ql_consistency import Consistency_QL  # type: ignore[import-not-found]

    return Consistency_QL(
        state_dim=task.spaces.obs_dim,
        action_dim=task.spaces.action_dim,
        max_action=float(task.spaces.action_high[0]),
        device=device,
        discount=0.99,
        tau=0.005,
        max_q_backup=settings["max_q_backup"],
        n_timesteps=settings["T"],
        eta=settings["eta"],
        lr=settings["lr"],
        lr_decay=False,
        lr_maxt=settings["num_epochs"],
        grad_norm=settings["gn"],
        q_norm=settings["q_norm"],
        steps_per_epoch=1000,
    )


def train(config: RLConfig, repository: Path) -> None:
    """One run from its start to its end."""
    settings = settings_of(repository, config.env.name)
    config.env.reward = {"no": "none"}.get(settings["reward_tune"], settings["reward_tune"])
    peer_run = PeerRun(config, {"their_commit": commit_of(repository)}, settings)
    torch.manual_seed(config.seed)
    agent = build(repository, peer_run.task, settings, peer_run.device)
    sampler = Sampler(peer_run.task.dataset, peer_run)
    peer_run.begin(DingJinPeer(agent))
    while sampler.drawn < config.steps:
        agent.train(sampler, min(PERIOD, config.steps - sampler.drawn), config.batch_size)
    peer_run.after_update(config.steps)
    peer_run.finish()


def commit_of(repository: Path) -> str:
    """What of theirs ran."""
    command = ["git", "-C", str(repository), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main() -> None:
    """The command: their repository, then the train command's overrides."""
    repository = Path(sys.argv.pop(1) if len(sys.argv) > 1 else "")
    run(lambda config, overrides: train(config, repository), "rl")


if __name__ == "__main__":
    main()
