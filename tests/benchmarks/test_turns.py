"""Turns of a child process: the protocol, a child that dies, the real peers where they are."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
D3RLPY, FQL = PEERS / ".venv", PEERS / "fql" / ".venv"

CHILD = """
import sys, time
sys.path.insert(0, {peers!r})
from turns import serve

def build():
    print("a library says hello")
    made = 0

    def turn(updates):
        nonlocal made
        made += updates
        print("so far", made)
        if made > 100:
            raise ValueError("no more than 100")
        end = time.process_time() + 0.001 * updates
        while time.process_time() < end:
            pass
        time.sleep(0.05)

    return turn

serve(build, ["numpy"])
"""


@pytest.fixture
def turns(load: Any) -> ModuleType:
    module: ModuleType = load("peers/turns")
    return module


def script(path: Path, text: str) -> list[str]:
    path.write_text(text.format(peers=str(PEERS)))
    return [sys.executable, str(path)]


def test_a_child_answers_with_its_own_seconds(turns: ModuleType, tmp_path: Path) -> None:
    with turns.child("a peer", script(tmp_path / "child.py", CHILD)) as child:
        assert child.ready() == {"numpy": np.__version__}
        for updates in (1, 40, 2):  # what it prints is no answer, what it sleeps not its time
            assert 0.001 * updates <= child(updates) < 0.001 * updates + 0.05
        assert child.process.poll() is None
    assert child.process.poll() is not None


def test_a_child_that_dies_says_why(turns: ModuleType, tmp_path: Path) -> None:
    with turns.child("a peer", script(tmp_path / "child.py", CHILD)) as child:
        child.ready()
        child(100)
        with pytest.raises(SystemExit, match=r"^a peer ended with 1: ValueError: no more"):
            child(1)
    with turns.child("a peer", script(tmp_path / "child.py", "raise SystemExit(3)")) as child:
        child.process.wait()  # nobody reads what it is told
        with pytest.raises(SystemExit, match=r"^a peer ended with 3: not a word$"):
            child(1)


def test_a_clone_without_fql_is_named(turns: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, str(PEERS / "fql_turns.py"), str(tmp_path), "data.npz", "256"]
    with turns.child("FQL's code", command) as child:
        with pytest.raises(SystemExit) as error:
            child.ready()
        said = f"{tmp_path} holds no FQL that can be imported: No module named 'agents'"
        assert error.value.code == f"FQL's code ended with 1: {said}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Transitions in two episodes, with the names of a batch of ours."""
    rng, size = np.random.default_rng(0), 80
    path = tmp_path / "data.npz"
    np.savez(
        path,
        observations=rng.standard_normal((size, 11), np.float32),
        actions=rng.uniform(-1, 1, (size, 3)).astype(np.float32),
        rewards=rng.standard_normal(size, np.float32),
        next_observations=rng.standard_normal((size, 11), np.float32),
        terminals=(np.arange(size) % 40 == 39).astype(np.float32),
    )
    return path


@pytest.mark.slow
@pytest.mark.skipif(
    not (D3RLPY / "installed").exists(),
    reason="no environment with d3rlpy: speed.py d3rlpy=true makes it",
)
@pytest.mark.parametrize("algorithm", ["td3_bc", "iql", "rebrac"])
def test_turns_of_d3rlpy(turns: ModuleType, data: Path, algorithm: str) -> None:
    command = [str(D3RLPY / "bin" / "python"), str(PEERS / "d3rlpy_turns.py")]
    with turns.child(algorithm, [*command, algorithm, str(data), "8", "cpu"]) as child:
        assert child.ready() == {"d3rlpy": "2.8.1"}
        assert child(3) > 0


# What the adapter asks of the authors' clone, on JAX itself.
AGENT = """
import jax.numpy as jnp

def get_config():
    return {"rate": 0.5}

class FQLAgent:
    def __init__(self, total):
        self.total = total

    @classmethod
    def create(cls, seed, ex_observations, ex_actions, config):
        assert (ex_observations.shape, ex_actions.shape) == ((1, 11), (1, 3))
        assert config == {"rate": 0.5}
        return cls(jnp.zeros(()))

    def update(self, batch):
        shapes = {name: array.shape for name, array in batch.items()}
        assert shapes == {
            "observations": (8, 11), "next_observations": (8, 11), "actions": (8, 3),
            "rewards": (8,), "terminals": (8,), "masks": (8,),
        }
        assert (batch["masks"] == 1 - batch["terminals"]).all()
        return FQLAgent(self.total + batch["rewards"].sum()), {}
"""
DATASET = """
import numpy as np

class Dataset(dict):
    @classmethod
    def create(cls, **fields):
        return cls(fields)

    def sample(self, batch_size):
        chosen = np.random.randint(len(self["rewards"]), size=batch_size)
        return {name: column[chosen] for name, column in self.items()}
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not (FQL / "installed").exists(), reason="no environment with JAX: speed.py fql=CLONE makes it"
)
def test_turns_of_fql(turns: ModuleType, data: Path, tmp_path: Path) -> None:
    for name, text in {"agents/fql.py": AGENT, "utils/datasets.py": DATASET}.items():
        file = tmp_path / "clone" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    command = [str(FQL / "bin" / "python"), str(PEERS / "fql_turns.py"), str(tmp_path / "clone")]
    with turns.child("FQL", [*command, str(data), "8"]) as child:
        assert child.ready().keys() == {"jax", "jaxlib", "flax", "optax"}
        assert child(3) > 0
