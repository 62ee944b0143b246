"""Published JAX agents as peers: their data, their actors, and the rows that come of a training."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmpolicy.datasets import load_hdf5
from cmpolicy.datasets.alignment import align_arrays

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_transitions_are_ours_with_the_actions_that_came_next(tmp_path: Path, load: Any) -> None:
    module = load("peers/peer_transitions")
    steps, rng = 12, np.random.default_rng(0)
    observations, actions = rng.normal(size=(steps, 3)), rng.normal(size=(steps, 2))
    terminals, timeouts = (np.arange(steps) == at for at in (4, 8))
    recorded = (observations, actions, rng.normal(size=steps), terminals, timeouts)
    made = module.Transitions.of_steps(align_arrays(*recorded))
    known = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10]  # neither the step cut by time nor the last one
    np.testing.assert_array_equal(made.observations, observations[known].astype(np.float32))
    # the action of the step that was cut by time came next, though it is no transition
    np.testing.assert_array_equal(
        made.next_actions, actions[np.array(known) + 1].astype(np.float32)
    )
    assert made.terminals.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert np.flatnonzero(made.ends).tolist() == [4, 7, 9]
    made.save(tmp_path / "set.npz")
    for mine, read in zip(made, module.Transitions.load(tmp_path / "set.npz"), strict=True):
        assert mine.dtype == read.dtype
        np.testing.assert_array_equal(mine, read)


def test_an_actor_is_what_its_file_says(tmp_path: Path, load: Any) -> None:
    module = load("peers/tanh_actor")
    weights = (np.array([[1.0, -1.0]]), np.array([[0.5], [0.25]]))
    layers = [(w.astype(np.float32), np.full(w.shape[1], 0.1, np.float32)) for w in weights]
    mean, std = np.array([2.0], np.float32), np.array([4.0], np.float32)
    other = module.TanhActor(mean, std, layers[:1])
    module.save_actors(tmp_path / "10.npz", [other, module.TanhActor(mean, std, layers)])
    actor = module.load_actor(tmp_path / "10.npz", 1)
    # (6 − 2) / 4 = 1; the hidden entries are ReLU(1.1) and ReLU(−0.9)
    np.testing.assert_allclose(actor(np.array([[6.0]])), [[np.tanh(0.5 * 1.1 + 0.1)]], rtol=1e-6)
    assert len(module.load_actor(tmp_path / "10.npz", 0).layers) == 1


def test_a_parameter_is_filled_up_behind_observation_and_behind_action(load: Any) -> None:
    module = load("peers/padding")
    own, whole = module.Sizes(2, 1), module.Sizes(4, 3)
    rows = np.arange(1, 4)[:, None] * np.ones((1, 5))
    wide = module.padded_parameter(rows, (7, 5), own, whole)
    assert wide[:, 0].tolist() == [1, 2, 0, 0, 3, 0, 0]
    first = module.padded_parameter(rows[:2], (4, 5), own, whole)  # of an actor
    assert first[:, 0].tolist() == [1, 2, 0, 0]
    last = module.padded_parameter(np.ones((5, 1)), (5, 3), own, whole)
    assert last[0].tolist() == [1, 0, 0]
    assert module.padded_parameter(np.float32(3), (), own, whole) == 3


STAND_IN = """
import json, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {peers!r})
from peer_transitions import Transitions
from tanh_actor import TanhActor, save_actors
job = json.loads(Path(sys.argv[2]).read_text())
directory = Path(job["directory"])
if job["peer"] == "iql":
    sys.exit("IQL is out of order")
with (directory / "trainings").open("a") as file:
    file.write("trained\\n")
assert all(len(Transitions.load(Path(path)).rewards) == 117 for path in job["sets"].values())
still = TanhActor(np.zeros(11), np.ones(11), [(np.zeros((11, 3)), np.zeros(3))])
every = job["updates"] // job["checkpoints"]
for step in range(every, job["updates"] + 1, every):
    save_actors(directory / f"{{step}}.npz", [still] * (2 * len(job["replicas"])))
done = {{"updates_per_second": 50.0, "device": "cpu", "versions": {{"jax": "0"}}}}
(directory / "training.json").write_text(json.dumps(done))
"""


@pytest.fixture
def command(tmp_path: Path, write_hopper: Any) -> list[str]:
    """Of a short run on a small file, trained by an interpreter that trains nothing."""
    write_hopper(tmp_path / "hopper-medium.hdf5")
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN.format(peers=str(BENCHMARKS / "peers")))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    python.chmod(0o755)
    return [
        *(f"clones={tmp_path}", f"python={python}", f"files=['{tmp_path}/hopper-medium.hdf5']"),
        *("updates=200", "checkpoints=2", "starts=2", "final=3", "discounts=[0.99,0.998]"),
        *(f"out={tmp_path}/table.csv", f"runs={tmp_path}/runs"),
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_a_training_gives_a_row_for_each_actor_and_its_average(
    tmp_path: Path, load: Any, command: list[str]
) -> None:
    module, rows = load("jax_peers"), load("offline_rl_rows")
    assert module.main([*command, "peers=[td3_bc]"]) == 0
    made = rows.read_rows(tmp_path / "table.csv")
    names = ["jax_td3_bc", "jax_td3_bc_discount=0.998"]
    assert [row.agent for row in made] == [n + end for n in names for end in ("", "_averaged")]
    row = made[0]
    assert (row.set, row.updates, row.environment) == ("hopper-medium", 200, "Hopper-v5")
    assert [step for step, _ in row.points()] == [100, 200]
    assert row.score == pytest.approx(np.mean([score for _, score in row.points()]), abs=0.01)
    assert 0 < row.last < 10  # a hopper that does nothing falls soon
    assert row.transitions == len(load_hdf5(tmp_path / "hopper-medium.hdf5"))
    assert "jax=0" in row.versions
    # a row that is there is not made again, and a lost one without another training
    assert module.main([*command, "peers=[td3_bc]"]) == 0
    rows.write_rows(tmp_path / "table.csv", made[1:])
    assert module.main([*command, "peers=[td3_bc]"]) == 0
    assert len(rows.read_rows(tmp_path / "table.csv")) == 4
    run = tmp_path / "runs" / "hopper-medium-jax_td3_bc-0"
    assert (run / "trainings").read_text() == "trained\n"
    assert json.loads((run / "job.json").read_text())["batch_size"] is None


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_a_training_that_fails_says_why(load: Any, command: list[str]) -> None:
    with pytest.raises(RuntimeError, match="IQL is out of order"):
        load("jax_peers").main([*command, "peers=[iql]"])


def test_options_that_cannot_be_are_refused(load: Any) -> None:
    module = load("jax_peers")
    with pytest.raises(SystemExit, match="give clones="):
        module.main(["files=[a.hdf5]"])
    with pytest.raises(SystemExit, match="multiple of 100"):
        module.main(["clones=.", "files=[a.hdf5]", "updates=1000", "checkpoints=20"])


def test_runs_of_a_peer_train_side_by_side_when_asked(load: Any) -> None:
    module = load("jax_peers")
    options = module.Options(
        files=["a/x.hdf5", "a/y.hdf5"],
        peers=["iql", "rebrac"],
        settings={"rebrac": {"actor_penalty": 0.01}},
    )
    runs = list(module.runs_of(options))
    assert [len(group) for group in module.grouped(runs, at_once=True)] == [2, 2]
    assert [len(group) for group in module.grouped(runs, at_once=False)] == [1] * 4
    assert runs[1].key == ("x", "jax_rebrac_actor_penalty=0.01", 0)
