"""Evaluating a run again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.errors import InputError
from cmpolicy.evaluate import EvaluateConfig, evaluate
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.rollout import roll_out
from cmpolicy.rl.trained_agent import load_agent, read_record
from cmpolicy.train import train
from cmpolicy.training.run_directory import RunDirectory

TINY = (
    *("env=hopper-medium", "dataset.source=sample", "threads=1", "progress=false", "batch_size=8"),
    *("agent.policy.hidden=[8]", "eval.episodes=1", "eval.final_episodes=2", "steps=6"),
)


def compose(config: str, *overrides: str) -> Any:
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        return OmegaConf.to_object(hydra.compose(config, list(overrides)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each agent."""
    place = tmp_path_factory.mktemp("runs")
    for agent in ("ac", "bc"):
        train(compose("rl", *TINY, f"agent={agent}", f"run_dir={place / agent}"), [])
    return {agent: place / agent for agent in ("ac", "bc")}


@pytest.fixture
def run(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A run of `ac` of one's own."""
    return Path(shutil.copytree(runs["ac"], tmp_path / "run"))


def evaluated(run: Path, **options: Any) -> dict[str, Any]:
    """The row that an evaluation adds."""
    evaluate(EvaluateConfig(**{"run": str(run), "episodes": 3, "device": "cpu", **options}), [])
    row = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])
    assert isinstance(row, dict)
    return row


def test_a_row_says_what_was_evaluated_and_how(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    row = evaluated(run)
    assert (row["checkpoint"], row["step"], row["environment"]) == ("last", 6, "Hopper-v4")
    assert (row["episodes"], row["seed"], row["network_calls"], row["best_of"]) == (3, 1000, 1, 1)
    assert f"return {row['mean_return']:.1f}" in capsys.readouterr().out
    again = evaluated(run)
    assert again["mean_return"] == row["mean_return"]
    assert len((run / "evaluations.jsonl").read_text().splitlines()) == 2
    assert all(p.read_bytes() == content for p, content in before.items())


def test_it_is_the_score_of_the_saved_policy(run: Path) -> None:
    row = evaluated(run, seed=77)
    policy = ConsistencyPolicy.load(run / "policy.safetensors")
    rolled = roll_out(
        lambda obs: policy.act(obs, mode_of=row["mode_of"]),
        Environment("Hopper-v4").make,
        3,
        77,
    )
    assert row["mode_of"] == 32
    assert row["mean_return"] == pytest.approx(rolled.mean_return, rel=1e-6)
    low, high = RunDirectory(run).read_results()["environment"]["reference_returns"]
    assert row["normalized_score"] == pytest.approx(100 * (rolled.mean_return - low) / (high - low))


def test_more_network_calls_and_best_of_n_change_the_actions(
    run: Path, runs: dict[str, Path]
) -> None:
    one, several = (evaluated(runs["bc"], steps=steps) for steps in (1, 3))
    assert (one["network_calls"], several["network_calls"]) == (1, 3)
    assert one["mean_return"] != several["mean_return"]
    plain, best = evaluated(run), evaluated(run, best_of=4)
    assert (best["best_of"], best["mode_of"]) == (4, 1)  # of candidates no mode is taken
    assert plain["mean_return"] != best["mean_return"]


def test_more_calls_than_the_actor_has_learned_are_refused(run: Path) -> None:
    with pytest.raises(InputError, match="agent ac has learned to act by 1 network call, got 3"):
        evaluated(run, steps=3)
    assert not (run / "evaluations.jsonl").exists()
    assert evaluated(run, steps=1)["mean_return"] == evaluated(run)["mean_return"]


def test_best_and_last_are_kept_apart(run: Path) -> None:
    directory = RunDirectory(run)
    state = directory.load_checkpoint("best")
    state["step"] = 4
    for name, tensor in state["learner"]["modules"].items():
        if name.startswith("average_policy.network"):
            tensor.fill_(1.0)
    directory.save_checkpoint("best", state)
    last, best = evaluated(run), evaluated(run, checkpoint="best")
    assert (last["step"], best["step"]) == (6, 4)
    assert (last["checkpoint"], best["checkpoint"]) == ("last", "best")
    assert last["mean_return"] != best["mean_return"]
    agent, _ = load_agent(directory, read_record(directory).spaces, "best", torch.device("cpu"))
    assert all((p == 1).all() for p in agent.average_policy.network.parameters())


def test_bc_has_nothing_to_choose_by(runs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="bc has no critic"):
        evaluated(runs["bc"], best_of=2)
    assert np.isfinite(evaluated(runs["bc"], best_of=1)["mean_return"])


@pytest.mark.parametrize("damage", ["checkpoint", "config", "results", "foreign"])
def test_a_damaged_run_is_one_line_and_gets_no_row(
    run: Path, runs: dict[str, Path], damage: str
) -> None:
    last = run / "checkpoints" / "last.safetensors"
    if damage == "checkpoint":
        last.write_bytes(last.read_bytes()[:1000])
    elif damage == "foreign":
        last.write_bytes((runs["bc"] / "checkpoints" / "last.safetensors").read_bytes())
    else:
        (run / {"config": "config.yaml", "results": "results.json"}[damage]).write_text("{")
    with pytest.raises(InputError) as error:
        evaluated(run)
    assert "\n" not in str(error.value)
    assert not (run / "evaluations.jsonl").exists()


def test_results_of_another_kind_are_one_line(run: Path) -> None:
    (run / "results.json").write_text("{}")
    with pytest.raises(InputError):
        evaluated(run)
