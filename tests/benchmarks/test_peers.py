"""Peers: their settings, their data, their environment; a run of d3rlpy where it is installed."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from cmpolicy.datasets import load_hdf5
from cmpolicy.errors import InputError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PYTHON = BENCHMARKS / "peers" / ".venv" / "bin" / "python"


# d3rlpy ---------------------------------------------------------------------------------------


def test_settings_of_d3rlpy_are_those_of_its_scripts(load: Any) -> None:
    settings_of = load("peers/d3rlpy_agent").settings_of
    rebrac = settings_of("rebrac", "hopper-mixed")
    assert (rebrac["actor_beta"], rebrac["critic_beta"]) == (0.05, 0.5)  # of medium-replay
    # `hopper-medium` begins the names of three tasks; each has penalties of its own
    assert settings_of("rebrac", "hopper-medium-expert")["actor_beta"] == 0.1
    assert settings_of("rebrac", "hopper-medium")["actor_beta"] == 0.01
    assert settings_of("rebrac", "ant-medium")["critic_beta"] == 0.01
    assert settings_of("iql", "hopper-medium")["cosine_steps"] == 500_000
    assert settings_of("td3_bc", "hopper-medium")["alpha"] == 2.5
    with pytest.raises(InputError, match="unknown algorithm 'sac', expected td3_bc"):
        settings_of("sac", "hopper-medium")


def test_d3rlpy_trains_on_the_transitions_that_we_train_on(
    tmp_path: Path, load: Any, write_hopper: Any
) -> None:
    """Of an episode that was cut it drops the last step, of one that ended it keeps it."""
    path = write_hopper(tmp_path / "hopper-medium.hdf5")
    steps = load("peers/d3rlpy_agent").flat_steps(path)
    kept, begin = [], 0
    for end in np.flatnonzero(steps["terminals"] | steps["timeouts"]):
        kept += range(begin, end + int(steps["terminals"][end]))
        begin = end + 1
    ours = load_hdf5(path)
    np.testing.assert_array_equal(steps["observations"][kept], ours.observations)
    np.testing.assert_array_equal(steps["rewards"][kept], ours.rewards)
    np.testing.assert_array_equal(steps["terminals"][kept], ours.terminals.bool())
    assert not (steps["terminals"] & steps["timeouts"]).any()


needs_d3rlpy = pytest.mark.skipif(
    not PYTHON.exists(), reason="no environment with d3rlpy: offline_rl.py makes it"
)


@needs_d3rlpy
@pytest.mark.parametrize("algorithm", ["td3_bc", "iql", "rebrac"])
def test_a_run_of_d3rlpy(tmp_path: Path, write_hopper: Any, algorithm: str) -> None:
    path = write_hopper(tmp_path / "hopper-medium.hdf5", steps=400)
    run = tmp_path / "run"
    script = BENCHMARKS / "peers" / "d3rlpy_agent.py"
    command = [str(PYTHON), str(script), algorithm, "env=hopper-medium", f"dataset.path={path}"]
    command += ["agent=bc", "agent.name=peer", "steps=6", "batch_size=8", "eval.every=3"]
    command += ["eval.episodes=2", "eval.final_episodes=2", "seed=1", f"run_dir={run}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "results.json").read_text())
    assert found["finished"]
    assert found["peer"]["settings"]["algorithm"] == algorithm
    assert found["peer"]["versions"] == {"d3rlpy": "2.8.1"}
    assert found["versions"]["gymnasium"] == version("gymnasium")
    assert [e["step"] for e in found["evaluations"]] == [3, 6]


SAME_BATCHES = """
import sys
import d3rlpy, numpy as np
from pathlib import Path
from d3rlpy_agent import ArrayTransitions, checked_steps
dataset = d3rlpy.dataset.MDPDataset(**checked_steps(Path(sys.argv[1])))
arrays = ArrayTransitions(dataset)
for sample in (dataset.sample_transition_batch, arrays):
    np.random.seed(3)
    batch = sample(500)
    for name in arrays.columns:
        column = getattr(batch, name)
        print(name, column.dtype, column.shape, float((column * np.arange(1, 501)[:, None]).sum()))
"""


@needs_d3rlpy
def test_transitions_as_arrays_are_those_that_d3rlpy_draws(
    tmp_path: Path, write_hopper: Any
) -> None:
    path = write_hopper(tmp_path / "hopper-medium.hdf5", steps=400)
    done = subprocess.run(
        [str(PYTHON), "-c", SAME_BATCHES, str(path)],
        capture_output=True, text=True, check=False, cwd=BENCHMARKS / "peers",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if " float32 " in line]
    assert len(lines) == 14  # seven columns, twice
    assert lines[:7] == lines[7:]


def test_the_environment_has_our_versions(tmp_path: Path, load: Any) -> None:
    environment = load("peers/environment")
    pinned = dict(line.split("==") for line in environment.same_versions())
    assert pinned["gymnasium"] == version("gymnasium")
    assert pinned["mujoco"] == version("mujoco")
    assert pinned["torch"] == torch.__version__.partition("+")[0]
    (tmp_path / "installed").touch()  # one that is there is not made again
    assert environment.d3rlpy_python(tmp_path).parent.parent == tmp_path
    assert environment.fql_python(tmp_path).parent.parent == tmp_path


# Ding & Jin -----------------------------------------------------------------------------------


@pytest.fixture
def adapter(load: Any) -> Any:
    return load("peers/ding_jin_code")


def test_their_settings_are_read_and_nothing_is_run(tmp_path: Path, adapter: Any) -> None:
    (tmp_path / "offline.py").write_text(
        "import nothing_like_this\n"
        "consistency_hyperparameters = {'hopper-medium-v2': {'eta': 0.1}, "
        "'hopper-medium-replay-v2': {'eta': 0.2}, 'pen-human-v1': {'eta': 0.01}}\n"
    )
    settings_of = adapter.settings_of
    assert settings_of(tmp_path, "hopper-medium") == {"task": "hopper-medium-v2", "eta": 0.1}
    assert settings_of(tmp_path, "hopper-mixed")["eta"] == 0.2
    assert settings_of(tmp_path, "pen-expert")["task"] == "pen-human-v1"
    with pytest.raises(InputError, match="no settings for ant-medium; theirs are for: hopper"):
        settings_of(tmp_path, "ant-medium")
    with pytest.raises(InputError, match=r"no offline\.py in"):
        settings_of(tmp_path / "elsewhere", "hopper-medium")
    (tmp_path / "offline.py").write_text("x = 1\n")
    with pytest.raises(InputError, match="has no consistency_hyperparameters"):
        settings_of(tmp_path, "hopper-medium")


def test_evaluations_fall_between_two_updates(
    tmp_path: Path, adapter: Any, write_hopper: Any
) -> None:
    """After the first, the second … draw the agent has made one update less than draws."""
    told: list[int] = []
    peer_run = SimpleNamespace(after_update=told.append)
    data = load_hdf5(write_hopper(tmp_path / "x.hdf5"))
    sampler = adapter.Sampler(data, peer_run)
    for _ in range(4):
        state, _, _, reward, not_done = sampler.sample(16)
        assert (state.shape, reward.shape, not_done.shape) == ((16, 11), (16, 1), (16, 1))
        assert set(not_done.flatten().tolist()) <= {0.0, 1.0}
    assert told == [1, 2, 3]


class Softmax:
    """An agent of theirs whose fifty actions are known, and valued by their first entry."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.actor = self.critic_target = self

    def sample(self, state: torch.Tensor) -> torch.Tensor:
        return torch.rand(len(state), 2)

    def q_min(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return 200 * action[:, :1]


def test_their_action_is_one_of_fifty_by_softmax_of_q(adapter: Any) -> None:
    peer = adapter.DingJinPeer(Softmax())
    state = torch.get_rng_state()
    act = lambda seed: peer.act(  # noqa: E731
        np.zeros((300, 3), np.float32), torch.Generator().manual_seed(seed)
    )
    actions = act(0)
    assert actions.shape == (300, 2)
    assert torch.equal(torch.get_rng_state(), state)  # training goes on as if nothing had been
    np.testing.assert_array_equal(actions, act(0))
    assert (actions != act(1)).any()
    assert actions[:, 0].mean() > 0.95  # the largest of fifty is 50/51 on average
    assert 0.4 < actions[:, 1].mean() < 0.6


def test_a_run_needs_a_directory(load: Any) -> None:
    peer = load("peers/peer")
    with pytest.raises(InputError, match="needs run_dir="):
        peer.PeerRun(SimpleNamespace(run_dir=None), {}, {})
    acting = peer.Acting(SimpleNamespace(act=lambda obs, generator: obs))
    with pytest.raises(InputError, match="neither best_of nor mode_of nor steps"):
        acting.act(np.zeros((1, 2), np.float32), best_of=4, generator=torch.Generator())


def test_a_file_without_actions_in_range_is_refused(
    tmp_path: Path, load: Any, write_hopper: Any
) -> None:
    path = write_hopper(tmp_path / "x.hdf5")
    with h5py.File(path, "a") as file:
        file["actions"][3, 1] = 1.5
    with pytest.raises(InputError, match="beyond ±1"):
        load("peers/d3rlpy_agent").checked_steps(path)
