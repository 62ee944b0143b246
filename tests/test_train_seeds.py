"""`seeds=` from the configuration to what a run leaves, in process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from cmpolicy.acceleration.stacked_agents import StackedAgents
from cmpolicy.cli.resume import load_config, resumed_config
from cmpolicy.errors import InputError
from cmpolicy.evaluate import EvaluateConfig, evaluate
from cmpolicy.rl.config import RLConfig
from cmpolicy.train import train
from cmpolicy.training.checkpoint import load_state
from cmpolicy.training.run_directory import RunDirectory

EVERY = ("steps=12", "eval.every=6", "log_every=4", "checkpoint_every=5")


@pytest.fixture(scope="module")
def start(compose: Any, tiny: tuple[str, ...]) -> Callable[..., Path]:
    """start(path, *overrides): train a run with small critics."""

    def trained(path: Path, *overrides: str, critic: bool = True) -> Path:
        critics = ["agent.critic_hidden=[8]"] if critic else []
        train(compose(*tiny, *critics, *EVERY, f"run_dir={path}", *overrides), [])
        return path

    return trained


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_state(run / "checkpoints" / "last.safetensors")["learner"]["modules"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, start: Any) -> Path:
    """A finished run of two seeds."""
    return start(tmp_path_factory.mktemp("runs") / "several", "seeds=[0,3]")


def test_a_seed_of_several_is_the_run_of_that_seed(
    several: Path, tmp_path: Path, start: Any
) -> None:
    alone, mine = start(tmp_path / "alone", "seed=3"), several / "seed-3"
    for name, tensor in weights_of(alone).items():
        torch.testing.assert_close(weights_of(mine)[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    names = {str(p.relative_to(alone)) for p in alone.rglob("*") if "tfevents" not in p.name}
    assert {str(p.relative_to(mine)) for p in mine.rglob("*") if "tfevents" not in p.name} == names
    ours, theirs = RunDirectory(mine).read_results(), RunDirectory(alone).read_results()
    assert ours.keys() == theirs.keys()
    assert (ours["seed"], ours["seeds_at_once"], theirs["seeds_at_once"]) == (3, 2, 1)
    assert ours["best"].pop("chosen_by") == theirs["best"].pop("chosen_by")
    for name in ("last", "best"):
        assert ours[name].pop("failure") is theirs[name].pop("failure") is None
        assert ours[name] == pytest.approx(theirs[name], rel=1e-3)
    assert [e["step"] for e in ours["evaluations"]] == [6, 12]
    logged = [r["step"] for r in RunDirectory(mine).read_metrics() if r["critic/loss"]]
    assert logged == ["4", "8", "12"]
    config, single = (load_config(RunDirectory(path), RLConfig) for path in (mine, alone))
    assert isinstance(config, RLConfig)
    assert (config.seed, config.seeds, config.run_dir) == (3, None, str(mine))
    config.run_dir = single.run_dir
    assert config == single


def test_the_run_above_tells_means(several: Path) -> None:
    results = RunDirectory(several).read_results()
    assert (results["seeds"], results["finished"]) == ([0, 3], True)
    each = [RunDirectory(several / f"seed-{seed}").read_results() for seed in (0, 3)]
    for name in ("last", "best"):
        scores = {str(r["seed"]): r[name]["normalized_score"] for r in each}
        assert results[name]["by_seed"] == scores
        assert results[name]["normalized_score"] == pytest.approx(sum(scores.values()) / 2)
    assert (several / "learning_curve.png").exists()


def test_a_seed_is_evaluated_as_any_run_and_several_are_refused(several: Path) -> None:
    evaluate(EvaluateConfig(run=str(several / "seed-3"), episodes=1, device="cpu"), [])
    assert (several / "seed-3" / "evaluations.jsonl").exists()
    with pytest.raises(InputError, match=r"holds a run for each seed; .* one of seed-0, seed-3"):
        evaluate(EvaluateConfig(run=str(several), device="cpu"), [])


def test_killed_and_resumed_all_seeds_end_bit_for_bit(
    several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: Any, start: Any
) -> None:
    update, updates = StackedAgents.update, 0

    def deadly(self: StackedAgents, batch: Any) -> Any:
        nonlocal updates
        updates += 1
        if updates == 9:
            raise KeyboardInterrupt
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(StackedAgents, "update", deadly)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut", "seeds=[0,3]")
    train(compose(f"resume={tmp_path / 'cut'}"), [])
    for seed in (0, 3):
        a, b = (
            safetensors.torch.load_file(run / f"seed-{seed}" / "checkpoints" / "last.safetensors")
            for run in (several, tmp_path / "cut")
        )
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_best_checkpoints_are_scored_together_as_each_alone(tmp_path: Path, start: Any) -> None:
    fast = ("agent.learning_rate=0.1", "agent.ema_decay=0.0", "eval.every=1", "agent.mode_of=1")
    path = start(tmp_path / "several", "seeds=[0,3,1]", *fast)
    steps = []
    for seed in (0, 3, 1):
        run = RunDirectory(path / f"seed-{seed}")
        config = {"checkpoint": "best", "episodes": 1, "seed": 1_000_000 * (seed + 1) + 900_000}
        evaluate(EvaluateConfig(run=str(run.path), device="cpu", **config), [])
        row = json.loads((run.path / "evaluations.jsonl").read_text())
        best = run.read_results()["best"]
        assert best["mean_return"] == pytest.approx(row["mean_return"], rel=1e-3)
        assert best["step"] == row["step"]
        steps.append(row["step"])
    assert len(set(steps)) > 1  # nor are all of them the last


def test_the_seeds_of_a_run_stay(several: Path) -> None:
    with pytest.raises(InputError, match="seeds cannot change in a run that has begun"):
        resumed_config(several, ["seeds=[0,3,4]"], RLConfig)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["bc", "iql", "diffusion_ql", "ac_ding_jin"])
def test_every_agent_trains_several_seeds(agent: str, tmp_path: Path, start: Any) -> None:
    start(tmp_path / "run", f"agent={agent}", "seeds=2", critic=agent != "bc")
    assert RunDirectory(tmp_path / "run").read_results()["seeds"] == [0, 1]
