"""What a run may change when it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cmpolicy.cli.resume import CHANGEABLE, imports_module, load_config, resumed_config
from cmpolicy.errors import InputError
from cmpolicy.rl.config import RLConfig
from cmpolicy.train import train
from cmpolicy.training.run_directory import RunDirectory

SAMPLE = Path(__file__).parents[2] / "cmpolicy/datasets/sample/hopper-medium.hdf5"
Compose = Callable[..., Any]


def create(path: Path, config: RLConfig) -> RunDirectory:
    """A run of which there is only the configuration."""
    run = RunDirectory(path)
    run.create(OmegaConf.to_yaml(OmegaConf.structured(config)))
    return run


@pytest.fixture
def stored(tmp_path: Path, compose: Compose, tiny: tuple[str, ...]) -> Path:
    config = compose(*tiny, "agent=ac_ding_jin", "agent.eta=0.7")
    return create(tmp_path / "run", config).path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        resumed_config(path, list(overrides), RLConfig)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("agent", ["ac", "bc", "ac_ding_jin"])
def test_the_stored_configuration_comes_back_whole(
    tmp_path: Path, compose: Compose, tiny: tuple[str, ...], agent: str
) -> None:
    config = compose(*tiny, f"agent={agent}", "seed=5", "agent.policy.sigma_max=40")
    loaded = load_config(create(tmp_path, config), RLConfig)
    assert loaded == config
    assert type(loaded.agent) is type(config.agent)


def test_what_may_change_changes_and_the_rest_stays(stored: Path) -> None:
    changes = ["steps=50", "eval.every=7", "progress=false", "threads=2", "device=cpu"]
    changes += ["log_every=3", "agent.eta=0.9", "online.return_temperature=0.5"]
    changes += ["dataset.path=elsewhere.hdf5"]
    config = resumed_config(stored, [f"resume={stored}", *changes], RLConfig)
    assert (config.steps, config.eval.every, config.threads, config.log_every) == (50, 7, 2, 3)
    assert (config.agent.eta, config.online.return_temperature) == (0.9, 0.5)
    assert config.dataset.path == "elsewhere.hdf5"
    assert resumed_config(stored, [], RLConfig).agent.eta == 0.7
    assert config.env.name == "hopper-medium"
    assert "steps: 6\n" in (stored / "config.yaml").read_text()


@pytest.mark.parametrize(
    "override", ["agent=bc", "seed=1", "env=walker2d-medium", "agent.tau=1", "run_dir=x", "+a=1"]
)
def test_what_would_make_it_another_run_is_refused(stored: Path, override: str) -> None:
    reason = refused(stored, f"resume={stored}", override)
    assert reason.startswith(f"{override.split('=')[0]} cannot change in a run that has begun")
    assert all(key in reason for key in CHANGEABLE)


@pytest.mark.parametrize(
    "override",
    ["steps=0", "steps=many", "eval.every=0", "threads=[1]", "agent.eta=-1", "agent.radius=1"],
)
def test_wrong_values_are_refused(stored: Path, override: str) -> None:
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
        lambda c: {k: v for k, v in c.items() if k != "agent"},
        lambda c: {**c, "eval": {**c["eval"], "every": 0}},
    ],
)
def test_a_damaged_configuration_is_one_line(stored: Path, change: Callable[..., Any]) -> None:
    path = stored / "config.yaml"
    path.write_text(yaml.safe_dump(change(yaml.safe_load(path.read_text()))))
    assert "is damaged or from another version" in refused(stored)


def test_an_agent_of_a_package_that_is_missing_is_named(stored: Path) -> None:
    path = stored / "config.yaml"
    path.write_text(path.read_text().replace("algorithm: ac_ding_jin", "algorithm: sac"))
    assert refused(stored).endswith(
        "config.yaml: agent 'sac' is not installed; there are: "
        "ac, bc, weighted_bc, iql, diffusion_ql, ac_ding_jin"
    )


@pytest.mark.parametrize("content", ["a: [1", "\x00", "", "just text", "- 1"])
def test_a_file_that_is_no_configuration_is_one_line(stored: Path, content: str) -> None:
    (stored / "config.yaml").write_text(content)
    assert "is damaged or from another version" in refused(stored)


# What only the run directory names -------------------------------------------------------------


def test_a_module_that_only_the_run_names_is_not_imported(
    tmp_path: Path, compose: Compose, tiny: tuple[str, ...]
) -> None:
    path = create(tmp_path / "a run", compose(*tiny, "env.id='own:Hopper-v5'")).path
    command = f"python -m cmpolicy.train 'resume={path}' env.id=own:Hopper-v5"
    assert refused(path, f"resume={path}") == (
        "the run's environment own:Hopper-v5 imports a module; if you trust it, repeat its name: "
        + command
    )
    assert "cannot change" in refused(path, "env.id=other:Hopper-v5")
    config = resumed_config(path, ["env.id=own:Hopper-v5", "steps=7"], RLConfig)
    assert (config.env.id, config.steps) == ("own:Hopper-v5", 7)


@pytest.mark.parametrize(
    ("env_id", "imports"),
    [(None, False), ("Hopper-v5", False), ("os:x", True), ("GymV26Environment-v0", True)],
)
def test_ids_that_import_modules(env_id: str | None, imports: bool) -> None:
    assert imports_module(env_id) == imports


# Going on --------------------------------------------------------------------------------------


@pytest.fixture
def run_of(compose: Compose, tiny: tuple[str, ...]) -> Callable[..., RunDirectory]:
    """run_of(path, *overrides): a finished run of bc."""

    def trained(path: Path, *overrides: str) -> RunDirectory:
        train(compose(*tiny, "agent=bc", f"run_dir={path}", *overrides), [])
        return RunDirectory(path)

    return trained


@pytest.fixture
def go_on(compose: Compose) -> Callable[..., None]:
    """go_on(path, *overrides): resume a run."""

    def resumed(path: Path, *overrides: str) -> None:
        train(compose(f"resume={path}", *overrides), [f"resume={path}", *overrides])

    return resumed


def weights_of(run: RunDirectory) -> dict[str, bytes]:
    """The saved policy, bit for bit; a safetensors file has its metadata in any order."""
    tensors = safetensors.torch.load_file(run.path / "policy.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_a_run_goes_on_from_another_directory_and_with_data_that_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_of: Any, go_on: Any
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, "data.hdf5")
    run = run_of(Path("run"), "dataset.path=data.hdf5", "env.id=Hopper-v5")
    monkeypatch.chdir("elsewhere")
    go_on("../run", "steps=7")
    (tmp_path / "data.hdf5").rename("moved.hdf5")
    with pytest.raises(InputError, match=r"no file at .*data\.hdf5"):
        go_on("../run", "steps=8")
    go_on("../run", "steps=8", "dataset.path=moved.hdf5")
    monkeypatch.chdir(tmp_path)
    assert run.read_results()["last"]["step"] == 8


@pytest.mark.slow
def test_a_finished_run_is_evaluated_again_and_made_longer_but_not_shorter(
    tmp_path: Path, run_of: Any, go_on: Any
) -> None:
    run = run_of(tmp_path / "run")
    first, weights = run.read_results(), weights_of(run)
    go_on(run.path)
    assert run.read_results()["last"] == first["last"]
    assert weights_of(run) == weights
    go_on(run.path, "steps=9", "eval.final_episodes=2")
    longer = run.read_results()
    assert (longer["finished"], longer["last"]["step"], longer["last"]["episodes"]) == (True, 9, 2)
    assert [e["step"] for e in longer["evaluations"]] == [6, 9]
    assert weights_of(run) != weights
    assert resumed_config(run.path, [], RLConfig).steps == 9
    with pytest.raises(InputError, match="has done 9 updates, more than the 3 of steps=3"):
        go_on(run.path, "steps=3")
