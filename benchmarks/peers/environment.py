"""Environments beside ours: d3rlpy's with the same torch, Gymnasium and MuJoCo, FQL's with JAX."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# d3rlpy 2.8.1 asks for gymnasium 1.0.0 exactly, and works with later ones: what it needs beside
# is named here, and it is installed without asking further.
D3RLPY = "d3rlpy==2.8.1"
NEEDS = ("gym", "click", "structlog", "colorama", "dataclasses-json", "scikit-learn")
# What FQL's requirements.txt names and its agent imports, for a CPU.
FQL = ("jax==0.10.2", "flax==0.12.8", "optax==0.2.8", "distrax==0.1.9", "ml_collections==1.1.0")
# What the published agents of jax_agent.py import, for a CPU.
JAX = ("jax==0.10.2", "flax==0.12.8", "optax==0.2.8", "chex==0.1.92")
SAME = (
    *("torch", "numpy", "scipy", "h5py", "gymnasium", "gymnasium-robotics", "mujoco", "minari"),
    *("hydra-core", "omegaconf"),
)


def d3rlpy_python(directory: Path) -> Path:
    """The interpreter of d3rlpy's environment in `directory`, made where it is not there."""
    installs = (["--editable", f"{ROOT}[robotics]", *NEEDS], ["--no-deps", D3RLPY])
    return interpreter(directory, D3RLPY, installs, "import cmpolicy, d3rlpy")


def fql_python(directory: Path) -> Path:
    """The interpreter of FQL's environment in `directory`, made where it is not there."""
    return interpreter(directory, "FQL", [FQL], "import distrax, flax, jax, ml_collections, optax")


def jax_python(directory: Path) -> Path:
    """The interpreter of an environment with JAX in `directory`, made where it is not there."""
    return interpreter(directory, "JAX", [JAX], "import chex, flax, jax, optax")


def interpreter(directory: Path, name: str, installs: Sequence[Sequence[str]], check: str) -> Path:
    """Python in a directory, with what each of `installs` tells pip, once `check` has run."""
    python = directory / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    marker = directory / "installed"
    if marker.exists():
        return python
    print(f"making an environment for {name} in {directory}", flush=True)
    venv.create(directory, with_pip=True)
    constraints = directory / "constraints.txt"
    constraints.write_text("\n".join(same_versions()) + "\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
    for packages in installs:
        subprocess.run([*install, *packages], check=True)
    subprocess.run([str(python), "-c", check], check=True)
    marker.touch()
    return python


def same_versions() -> list[str]:
    """name==version of what must not differ between their runs and ours."""
    found = []
    for name in SAME:
        try:
            found.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return found
