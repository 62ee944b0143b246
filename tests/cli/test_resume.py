"""What a run may change when it goes on."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
import safetensors.torch
import yaml
from omegaconf import OmegaConf

from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.cli.resume import CHANGEABLE, load_config, resumed_config
from cmpolicy.errors import InputError
from cmpolicy.rl.config import RLConfig
from cmpolicy.train import train
from cmpolicy.training.run_directory import RunDirectory

TINY = (
    *("env=hopper-medium", "dataset.source=sample", "threads=1", "progress=false", "batch_size=8"),
    *("agent.policy.hidden=[8]", "eval.episodes=1", "eval.final_episodes=1", "steps=6"),
)


def compose(*overrides: str) -> RLConfig:
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = OmegaConf.to_object(hydra.compose("rl", list(overrides)))
    assert isinstance(config, RLConfig)
    return config


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A run of which there is only the configuration."""
    run = RunDirectory(tmp_path / "run")
    config = compose(*TINY, "agent=ac", "agent.radius=0.7")
    run.create(OmegaConf.to_yaml(OmegaConf.structured(config)))
    return run.path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        resumed_config(path, list(overrides), RLConfig)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("agent", ["ac", "bc", "weighted_bc", "ac_ding_jin"])
def test_the_stored_configuration_comes_back_whole(tmp_path: Path, agent: str) -> None:
    config = compose(*TINY, f"agent={agent}", "seed=5", "agent.policy.sigma_max=40")
    run = RunDirectory(tmp_path)
    run.create(OmegaConf.to_yaml(OmegaConf.structured(config)))
    assert load_config(run, RLConfig) == config
    assert type(load_config(run, RLConfig).agent) is type(config.agent)


def test_what_may_change_changes_and_the_rest_stays(stored: Path) -> None:
    changes = [
        "steps=50",
        "eval.every=7",
        "progress=false",
        "threads=2",
        "device=cpu",
        "log_every=3",
        "agent.radius=0.9",
        "online.return_temperature=0.5",
    ]
    config = resumed_config(stored, [f"resume={stored}", *changes], RLConfig)
    assert (config.steps, config.eval.every, config.threads, config.log_every) == (50, 7, 2, 3)
    assert config.agent.radius == 0.9  # type: ignore[attr-defined]
    assert config.online.return_temperature == 0.5  # type: ignore[union-attr]
    assert resumed_config(stored, [], RLConfig).agent.radius == 0.7  # type: ignore[union-attr]
    assert config.env.name == "hopper-medium"
    assert "steps: 6\n" in (stored / "config.yaml").read_text()


@pytest.mark.parametrize(
    "override",
    ["agent=bc", "seed=1", "env=walker2d-medium", "agent.tau=1", "batch_size=9", "run_dir=x"],
)
def test_what_would_make_it_another_run_is_refused(stored: Path, override: str) -> None:
    reason = refused(stored, f"resume={stored}", override)
    assert reason.startswith(f"{override.split('=')[0]} cannot change in a run that has begun")
    assert all(key in reason for key in CHANGEABLE)


@pytest.mark.parametrize(
    "override",
    ["steps=0", "steps=many", "eval.every=0", "threads=[1]", "agent.radius=-1", "agent.eta=1"],
)
def test_wrong_values_are_refused(stored: Path, override: str) -> None:
    from omegaconf.errors import OmegaConfBaseException

    with pytest.raises((InputError, ValueError, OmegaConfBaseException)):
        resumed_config(stored, [override], RLConfig)


def test_no_run_there(tmp_path: Path) -> None:
    assert "is not a run" in refused(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    assert "is not a run" in refused(tmp_path / "file")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {**c, "colour": "red"},
        lambda c: {**c, "steps": "many"},
        lambda c: {**c, "agent": {**c["agent"], "algorithm": "sac"}},
        lambda c: {**c, "agent": {**c["agent"], "colour": "red"}},
        lambda c: {k: v for k, v in c.items() if k != "agent"},
        lambda c: {**c, "eval": {**c["eval"], "every": 0}},
    ],
)
def test_a_damaged_configuration_is_one_line(stored: Path, change: object) -> None:
    path = stored / "config.yaml"
    path.write_text(yaml.safe_dump(change(yaml.safe_load(path.read_text()))))  # type: ignore[operator]
    assert "is damaged or from another version" in refused(stored)


@pytest.mark.parametrize("content", ["a: [1", "\x00", "", "just text", "- 1"])
def test_a_file_that_is_no_configuration_is_one_line(stored: Path, content: str) -> None:
    (stored / "config.yaml").write_text(content)
    assert "is damaged or from another version" in refused(stored)


def run_of(path: Path, *overrides: str) -> RunDirectory:
    train(compose(*TINY, f"run_dir={path}", *overrides), [])
    return RunDirectory(path)


def go_on(path: Path, *overrides: str) -> None:
    train(compose(f"resume={path}", *overrides), [f"resume={path}", *overrides])


def weights_of(run: RunDirectory) -> dict[str, bytes]:
    """The saved policy, bit for bit; a safetensors file has its metadata in any order."""
    tensors = safetensors.torch.load_file(run.path / "policy.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.slow
def test_a_finished_run_is_evaluated_again_and_made_longer(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "agent=bc")
    first, weights = run.read_results(), weights_of(run)
    go_on(run.path)
    again = run.read_results()
    assert again["last"] == first["last"]
    assert weights_of(run) == weights
    go_on(run.path, "steps=9", "eval.final_episodes=2")
    longer = run.read_results()
    assert (longer["finished"], longer["last"]["step"], longer["last"]["episodes"]) == (True, 9, 2)
    assert [e["step"] for e in longer["evaluations"]] == [6, 9]
    assert weights_of(run) != weights


@pytest.mark.slow
def test_a_run_made_longer_stays_longer(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "agent=bc")
    go_on(run.path, "steps=9")
    assert resumed_config(run.path, [], RLConfig).steps == 9


@pytest.mark.slow
def test_a_run_cannot_be_made_shorter_than_it_is(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "agent=bc")
    with pytest.raises(InputError, match="steps"):
        go_on(run.path, "steps=3")
