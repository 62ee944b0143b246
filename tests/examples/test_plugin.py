"""A package that is installed beside the library adds an agent, a loss, a network and a task."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmpolicy import plugins
from cmpolicy.agents import AGENTS
from cmpolicy.errors import InputError
from cmpolicy.plugins import NotInstalledError, find, find_all

PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"
TRAIN = (
    *("env=line", "dataset.path=line.hdf5", "agent=smooth_bc", "agent.smoothness=0.5"),
    *("agent.policy.network=residual", "+agent.policy.network_options.width=8"),
    *("agent.policy.loss=steady", "+agent.policy.loss_options.num_levels=5"),
    *("steps=2", "batch_size=8", "eval.episodes=2", "eval.final_episodes=2", "accelerate=off"),
    *("progress=false", "device=cpu", "run_dir=run"),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in in a folder of its own, as pip installs it."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "target"))
    shutil.copytree(PLUGIN, source, dirs_exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(target), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "No module named pip" in done.stderr:
        pytest.skip("pip is not installed here")
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def python(installed: Path, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """python(module, *arguments): exit code and output of a module, with the plug-in or without."""

    def run(module: str, *arguments: str, path: Path | None = installed) -> tuple[int, str]:
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(path or "")}
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path, env=variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr + done.stdout

    return run


def test_every_command_knows_what_an_installed_package_adds(
    python: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """Without the package, each says in one line what is missing."""
    assert python("cmpolicy_example.task", "line.hdf5") == (0, "")
    for module, arguments, said in (
        ("cmpolicy.train", TRAIN, "run: run"),
        ("cmpolicy.train", ["resume=run", "steps=4"], "going on from step 2 of 4"),
        ("cmpolicy.evaluate", ["run=run", "episodes=2"], "(step 4) on cmpolicy_example/Line-v0"),
        ("cmpolicy.export", ["run=run", "formats=[torch]"], "policy-last-1step"),
    ):
        code, output = python(module, *arguments)
        assert code == 0, output
        assert said in output
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["task"], results["agent"], results["last"]["step"]) == ("line", "smooth_bc", 4)

    for module, arguments, said in (
        ("cmpolicy.evaluate", ["run=run"], "agent 'smooth_bc' is not installed; there are: ac, "),
        ("cmpolicy.train", ["agent=smooth_bc"], "agent 'smooth_bc' is not installed; choose one"),
    ):
        code, output = python(module, *arguments, path=None)
        assert code == 2
        assert said in output
        assert output.count("\n") == 1


class Entry:
    """An entry point of a package."""

    group, dist, value = "cmpolicy.agents", None, "a_package:Agent"

    def __init__(self, name: str, loaded: Any) -> None:
        self.name, self.loaded = name, loaded

    def load(self) -> Any:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    found = [Entry("good", int), Entry("broken", ImportError("no module\nfast_critics"))]

    def entry_points(group: str, name: str | None = None) -> list[Entry]:
        assert group == "cmpolicy.agents"
        return [entry for entry in found if name in (None, entry.name)]

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    return found


def test_a_package_is_imported_when_its_name_is_asked_for(entries: list[Entry]) -> None:
    registry: dict[str, Any] = {"ac": str}
    assert find("agent", registry, "ac") is str
    assert set(registry) == {"ac"}
    assert find("agent", registry, "good") is int
    with pytest.raises(NotInstalledError) as caught:
        find("agent", registry, "best")
    assert str(caught.value) == "agent 'best' is not installed; there are: ac, good, broken"


def test_a_package_that_does_not_load_stops_only_who_asks_for_it(
    entries: list[Entry], caplog: pytest.LogCaptureFixture
) -> None:
    registry: dict[str, Any] = {"ac": str}
    said = "has cmpolicy.agents 'broken', which does not load: ImportError: no module fast_critics"
    with pytest.raises(InputError, match=said):
        find("agent", registry, "broken")
    assert set(find_all("agent", registry)) == {"ac", "good"}
    assert said in caplog.text


def test_the_agents_of_the_library_are_no_plug_ins() -> None:
    with pytest.raises(ValueError, match="agent 'ac' exists already"):
        plugins.registering("agent", AGENTS)("ac")(int)  # type: ignore[type-var]
