"""The files in examples/ run as they are, and do what they say."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import gymnasium
import pytest

from cmpolicy import ConsistencyPolicy
from cmpolicy.rl.rollout import roll_out

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 75  # lines
WHOLE_ALGORITHM = {"cleanrl_style": 130}


def load(name: str) -> ModuleType:
    """examples/<name>.py as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def test_a_policy_trained_on_arrays_drives_up_the_mountain(tmp_path: Path) -> None:
    """Saved and loaded again it also does so in eight environments at once."""
    path = tmp_path / "policy.safetensors"
    assert load("train_on_arrays").main(path) > 90  # who never arrives has at most 0

    returns = load("act_in_gymnasium").main(path, "MountainCarContinuous-v0")

    assert returns.shape == (8,)
    assert returns.min() > 90


def test_an_own_agent_acts_more_smoothly_the_more_it_is_asked_to() -> None:
    example = load("own_agent")
    plain, smooth = (example.main(smoothness, updates=100) for smoothness in (0.0, 1.0))
    assert 0 < smooth < plain / 2


def test_a_whole_algorithm_in_one_file_trains_saves_and_acts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = load("cleanrl_style")
    arguments = example.Args(updates=3, batch_size=8, width=8, episodes=2)
    mean = example.main(arguments)
    policy = ConsistencyPolicy.load("policy.safetensors")
    assert example.evaluate(policy, arguments).mean() == mean
    assert example.train(arguments).state_dict().keys() == policy.state_dict().keys()


def test_own_arrays_and_environment_through_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = {"agent__policy__hidden": [8], "agent__critic_hidden": [8], "batch_size": 8}
    recorded, reached = load("own_data").main(
        4, **tiny, eval={"every": 4, "episodes": 2, "final_episodes": 2}, progress=False
    )
    assert -60 < recorded < 0
    assert -200 < reached < 0
    printed = capsys.readouterr().out.replace("\n", " ")
    assert re.search(r"Run\('runs/reach/ac-seed0-.*action in \(1, 1\)", printed)


@pytest.fixture
def pendulum(tmp_path: Path) -> tuple[ConsistencyPolicy, Path]:
    """An untrained policy that acts by the mode, and its file."""
    policy = ConsistencyPolicy(3, 1, -2.0, 2.0, hidden=[8], mode_of=8)
    policy.save(tmp_path / "policy.safetensors")
    return policy, tmp_path / "policy.safetensors"


@pytest.mark.filterwarnings("ignore")  # of the package itself
def test_torchrls_collector_takes_a_policy(pendulum: tuple[ConsistencyPolicy, Path]) -> None:
    pytest.importorskip("torchrl", reason="torchrl is not installed: pip install torchrl")
    policy, path = pendulum
    batch = load("torchrl_collector").main(path, "Pendulum-v1", frames=30)
    actions = batch["action"]
    assert actions.shape == (30, 1)
    assert actions.abs().max() <= 2
    assert len(actions.unique()) > 20  # it samples
    drawn = policy(batch["observation"])
    assert drawn.shape == actions.shape


@pytest.mark.filterwarnings("ignore")
def test_stable_baselines3_evaluates_a_policy_as_we_do(
    pendulum: tuple[ConsistencyPolicy, Path],
) -> None:
    pytest.importorskip(
        "stable_baselines3", reason="it is not installed: pip install stable-baselines3"
    )
    policy, path = pendulum
    mean, std = load("sb3_evaluate").main(path, "Pendulum-v1", episodes=4)
    ours = roll_out(policy.act, lambda: gymnasium.make("Pendulum-v1"), 4, seed=0)
    assert mean == pytest.approx(ours.mean_return, abs=0.1)
    assert std == pytest.approx(ours.returns.std(), abs=0.1)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= WHOLE_ALGORITHM.get(path.stem, LONGEST)
