"""Which package may import which, and how large a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cmpolicy

PACKAGE = Path(cmpolicy.__file__).parent
FILES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py"))
COMMANDS = {
    *("train", "evaluate", "select", "sample", "edit", "export", "report", "data", "doctor"),
}

# From the bottom up: a package or a file at the top imports, of our own code, at most what stands
# beside it. Commands may import everything below them.
FOUNDATION = {"errors", "atomic_file", "array_types", "declared_size", "download"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "atomic_file": set(),
    "array_types": set(),
    "declared_size": {"errors"},
    "directory_lock": set(),
    "download": {"errors"},
    "tensor_file": {"errors", "atomic_file"},
    "plugins": {"errors"},
    "consistency": set(),
    "networks": {"consistency"},
    "training": {"errors", "atomic_file", "tensor_file", "directory_lock"},
    "comparison": {"errors", "atomic_file", "training"},
    "policy": {
        *("errors", "atomic_file", "array_types", "tensor_file", "plugins", "consistency"),
        *("networks", "training"),
    },
    "datasets": {"errors", "array_types", "declared_size", "download"},
    "agents": {"errors", "array_types", "plugins", "consistency", "networks", "policy", "datasets"},
    "acceleration": {
        *("errors", "array_types", "consistency", "networks", "datasets", "agents", "training"),
    },
    "cli": {"errors", "atomic_file", "plugins", "training", "acceleration"},
    "generative": {"errors", "plugins", "consistency", "networks", "training"},
    "rl": {
        *("errors", "array_types", "plugins", "policy", "datasets", "agents", "training"),
        *("acceleration", "cli"),
    },
    "images": {
        *FOUNDATION,
        *("consistency", "networks", "training", "acceleration", "cli", "generative"),
    },
    "toys": {
        *("errors", "array_types", "plugins", "consistency", "networks", "policy", "datasets"),
        *("agents", "training", "cli", "generative"),
    },
    "training_run": {
        *("errors", "datasets", "training", "acceleration", "cli", "rl", "images", "toys"),
    },
    "run": {"errors", "policy", "agents", "training", "comparison", "cli", "rl"},
    "fitting": {
        *("errors", "plugins", "datasets", "agents", "training", "cli", "rl", "training_run"),
        "run",
    },
    "__init__": {
        *("errors", "policy", "datasets", "agents", "training", "rl", "run", "fitting"),
    },
}


def package_of(file: Path) -> str:
    """The first part of a path in the package: a directory, or a file at the top."""
    return file.parts[0].removesuffix(".py")


def imported_modules(file: Path, source: str) -> set[str]:
    """The dotted names below `cmpolicy` that a file imports anywhere, lazily too."""
    package = ["cmpolicy", *file.parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module] if node.module else base)
            # `from cmpolicy import policy` names a package in the list of names
            whole = module == "cmpolicy"
            found |= {f"{module}.{alias.name}" for alias in node.names} if whole else {module}
    return {name.removeprefix("cmpolicy.") for name in found if name.startswith("cmpolicy.")}


def imported_packages(file: Path) -> set[str]:
    """The other packages that a file imports."""
    names = imported_modules(file, (PACKAGE / file).read_text(encoding="utf-8"))
    return {name.split(".")[0] for name in names} - {package_of(file)}


def test_imports_point_down_only() -> None:
    for file in FILES:
        package = package_of(file)
        allowed = MAY_IMPORT.keys() if package in COMMANDS else MAY_IMPORT[package]
        assert imported_packages(file) <= allowed, file


def test_packages_stand_in_order_from_the_bottom_up() -> None:
    below: set[str] = set()
    for package, allowed in MAY_IMPORT.items():
        assert allowed <= below, f"{package} may import what stands above it"
        below.add(package)


def test_nothing_is_allowed_that_is_not_needed() -> None:
    needed: dict[str, set[str]] = {package: set() for package in MAY_IMPORT}
    for file in FILES:
        needed.setdefault(package_of(file), set()).update(imported_packages(file))
    assert {package: needed[package] for package in MAY_IMPORT} == MAY_IMPORT


@pytest.mark.parametrize(
    ("file", "source", "found"),
    [
        ("agents/ac.py", "from cmpolicy.networks.critic import A", {"networks.critic"}),
        ("agents/ac.py", "import cmpolicy.train as t, os", {"train"}),
        ("agents/ac.py", "from cmpolicy import policy, errors", {"policy", "errors"}),
        ("agents/ac.py", "def f():\n    from ..generative import x", {"generative"}),
        ("agents/ac.py", "from .agent import x", {"agents.agent"}),
        ("agents/ac.py", "from .. import train", {"train"}),
        ("agents/ac.py", "import torch\nfrom os import path", set()),
    ],
)
def test_imports_are_found_in_every_form(file: str, source: str, found: set[str]) -> None:
    assert imported_modules(Path(file), source) == found


def test_files_are_few_and_small_and_named_for_what_they_hold() -> None:
    assert len([f for f in FILES if f.name != "__init__.py"]) <= 170
    for file in FILES:
        assert len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) <= 320, file
        assert not any(word in file.stem for word in ("util", "helper", "common", "misc")), file


def test_the_package_is_imported_without_torch_and_has_what_it_promises() -> None:
    program = (
        "import cmpolicy, sys; assert 'torch' not in sys.modules; "
        "assert all(hasattr(cmpolicy, name) and name in dir(cmpolicy) for name in cmpolicy.__all__)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="'cmpolicy' has no attribute 'Policy'"):
        _ = cmpolicy.Policy
