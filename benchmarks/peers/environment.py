"""d3rlpy's environment: beside ours, with the same torch, Gymnasium and MuJoCo."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# d3rlpy 2.8.1 asks for gymnasium 1.0.0 exactly, and works with later ones: what it needs beside
# is named here, and it is installed without asking further.
D3RLPY = "d3rlpy==2.8.1"
NEEDS = ("gym", "click", "structlog", "colorama", "dataclasses-json", "scikit-learn")
SAME = (
    *("torch", "numpy", "scipy", "h5py", "gymnasium", "gymnasium-robotics", "mujoco", "minari"),
    *("hydra-core", "omegaconf"),
)


def d3rlpy_python(directory: Path) -> Path:
    """The interpreter of the environment in `directory`, which is made where it is not there."""
    python = directory / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    marker = directory / "installed"
    if marker.exists():
        return python
    print(f"making an environment for {D3RLPY} in {directory}", flush=True)
    venv.create(directory, with_pip=True)
    constraints = directory / "constraints.txt"
    constraints.write_text("\n".join(same_versions()) + "\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
    subprocess.run([*install, "--editable", f"{ROOT}[robotics]", *NEEDS], check=True)
    subprocess.run([*install, "--no-deps", D3RLPY], check=True)
    subprocess.run([str(python), "-c", "import cmpolicy, d3rlpy"], check=True)
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
