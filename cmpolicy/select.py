"""Choose a checkpoint without a simulator: `python -m cmpolicy.select run=RUN`.

Fitted Q evaluation on the run's data, or on other episodes (`held_out=FILE`), ranks the policies
that training kept.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING
from tqdm import tqdm

from cmpolicy.agents.fitted_q_evaluation import PolicyValues, fitted_q_evaluation
from cmpolicy.atomic_file import write_atomically
from cmpolicy.cli.command import resolve_device, run
from cmpolicy.cli.resume import load_config
from cmpolicy.cli.run_config import check_positive, check_seed
from cmpolicy.datasets.n_step_returns import n_step
from cmpolicy.datasets.windows import windowed
from cmpolicy.errors import InputError
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.recorded_data import load_dataset
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")


@dataclass
class SelectConfig:
    """`python -m cmpolicy.select run=RUN`.

    Attributes:
        run: run directory of an agent.
        held_out: file or dataset with episodes that the agent has not seen; null for its own data.
        policies: how many are compared, the last ones of the run.
        updates: of the critics.
        transitions: of the data at most.
        discount: γ of the values, near enough to 1 for whole episodes.
        seed: of everything drawn.
        device: as in training.
    """

    run: str = MISSING
    held_out: str | None = None
    policies: int = 10
    updates: int = 10_000
    transitions: int = 50_000
    discount: float = 0.998
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        check_positive(self, "policies", "updates", "transitions")
        check_seed(self.seed)
        if not 0 <= self.discount < 1:
            raise ValueError(f"need 0 ≤ discount < 1, got {self.discount}")


ConfigStore.instance().store(name="select_schema", node=SelectConfig)


def select(config: SelectConfig, overrides: list[str]) -> None:
    """Value the policies, print them and the best, write selection.json."""
    device = resolve_device(config.device)
    directory = RunDirectory.existing(config.run)
    trained = load_config(directory, RLConfig)
    if trained is None:
        raise InputError(f"{config.run} is not an agent's run; only policies are valued")
    steps = kept_steps(directory)[-config.policies :]
    if config.held_out is not None:
        trained.dataset.path, trained.dataset.source = config.held_out, "auto"
    dataset = load_dataset(trained).to(device)
    policies = [ConsistencyPolicy.load(directory.policy_path(step), device) for step in steps]
    mode_of, window = trained.agent.mode_of, policies[0].window
    if dataset.frames is not None:
        raise InputError(f"{config.run} saw pictures; only policies of vectors are valued")
    dataset = windowed(dataset, window.history, window.horizon)
    dataset = n_step(dataset, window.execute, config.discount)
    with tqdm(total=config.updates, unit="update", desc="fitted Q", disable=None) as bar:
        values = fitted_q_evaluation(
            [functools.partial(policy.mode, samples=mode_of) for policy in policies],
            dataset,
            discount=config.discount,
            updates=config.updates,
            transitions=config.transitions,
            seed=config.seed,
            progress=bar.update,
        )
    report(directory, steps, values, config)


def kept_steps(directory: RunDirectory) -> list[int]:
    """The updates after which the run kept a policy, in order.

    Raises:
        InputError: if it kept none.
    """
    folder = directory.policy_path(0).parent
    steps = sorted(int(path.stem) for path in folder.glob("*.safetensors") if path.stem.isdigit())
    if not steps:
        raise InputError(
            f"{folder} holds no policy; runs keep one at each evaluation (eval.every), so train a "
            "little longer"
        )
    return steps


class ValuedPolicy(NamedTuple):
    """A policy of the run: its value from data, and its score by rollouts if there were any."""

    step: int
    value: float
    standard_error: float
    score: float | None

    def __str__(self) -> str:
        score = "" if self.score is None else f"   rollouts {self.score:.1f}"
        value = f"discounted return {self.value:.1f} ± {self.standard_error:.1f}"
        return f"step {self.step:>9}: {value}{score}"


def report(
    directory: RunDirectory, steps: list[int], values: PolicyValues, config: SelectConfig
) -> None:
    """Print a line for each policy and what is chosen; write both to selection.json.

    Raises:
        InputError: if no value is finite.
    """
    evaluations = directory.read_results().get("evaluations", [])
    scores = {e["step"]: score_of(e) for e in evaluations}
    policies = [
        ValuedPolicy(step, float(value), float(error), scores.get(step))
        for step, value, error in zip(steps, values.mean, values.standard_error, strict=True)
    ]
    finite = [policy for policy in policies if math.isfinite(policy.value)]
    if not finite:
        raise InputError("no value is finite: the critics diverged; try a smaller discount=")
    chosen = max(finite, key=lambda policy: policy.value)
    for policy in policies:
        print(f"{policy}{'   chosen' if policy is chosen else ''}")
    print(f"the data's own episodes: {values.data:.1f}")
    known = [policy.score for policy in policies if policy.score is not None]
    regret = max(known) - chosen.score if chosen.score is not None else None
    if regret is not None:
        print(f"regret: {regret:.1f} below the best of the {len(known)} by rollouts in training")
    result = {
        "chosen": chosen.step,
        "regret": regret,
        "data": values.data,
        "policies": [policy._asdict() for policy in policies],
        "settings": dataclasses.asdict(config),
    }
    path = directory.path / "selection.json"
    write_atomically(path, (json.dumps(result, indent=2) + "\n").encode())
    print(f"chosen: {directory.policy_path(chosen.step)}")


def score_of(evaluation: dict[str, Any]) -> float | None:
    """The normalised score of an evaluation in results.json, else the return."""
    names = ("eval/normalized_score", "eval/mean_return")
    return next((evaluation[name] for name in names if evaluation.get(name) is not None), None)


def main() -> None:
    """The command."""
    run(select, "select")


if __name__ == "__main__":
    main()
