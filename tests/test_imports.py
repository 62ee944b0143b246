"""The house: which room may know which, and how large a room may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import cmpolicy

PACKAGE = Path(cmpolicy.__file__).parent
FILES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py"))
FRONT_DOORS = {"train", "evaluate", "sample", "edit", "export"}
# the rest of the top level puts together
TOP_LEVEL_ROOMS = {
    "errors",
    "atomic_file",
    "action_bounds",
    "policy",
    "policy_config",
    "diffusion_policy",
}

# A room on the left imports, of our own code, at most the rooms on the right (and itself).
MAY_IMPORT = {
    "consistency": set(),
    "networks": set(),
    "errors": set(),
    "atomic_file": set(),
    "action_bounds": set(),
    "datasets": {"atomic_file", "errors"},
    "policy_config": {"action_bounds", "consistency", "networks"},
    "policy": {
        "action_bounds",
        "atomic_file",
        "consistency",
        "networks",
        "errors",
        "policy_config",
    },
    "diffusion_policy": {"policy", "policy_config", "consistency"},
}
# A room on the left never imports the rooms on the right.
NEVER_IMPORTS = {
    "agents": {"generative", "training", "evaluation"},
    "generative": {"agents"},
    "evaluation": {"agents", "generative"},
    "training": {"agents", "generative"},
}


def room_of(file: Path) -> str:
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
            # `from cmpolicy import policy` names a room in the list of names
            whole = module == "cmpolicy"
            found |= {f"{module}.{alias.name}" for alias in node.names} if whole else {module}
    return {name.removeprefix("cmpolicy.") for name in found if name.startswith("cmpolicy.")}


def imported_rooms(file: Path) -> set[str]:
    """The other rooms that a file imports."""
    names = imported_modules(file, (PACKAGE / file).read_text(encoding="utf-8"))
    return {name.split(".")[0] for name in names} - {room_of(file)}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_point_down_only(file: Path) -> None:
    room, rooms = room_of(file), imported_rooms(file)
    if room in MAY_IMPORT:
        assert rooms <= MAY_IMPORT[room]
    assert not rooms & NEVER_IMPORTS.get(room, set())
    # only tasks, front doors and configs know all
    if (len(file.parts) > 1 and room != "tasks") or room in TOP_LEVEL_ROOMS:
        at_the_top = {p.stem for p in FILES if len(p.parts) == 1} | FRONT_DOORS
        assert not rooms & ((at_the_top | {"tasks"}) - TOP_LEVEL_ROOMS)
    if not (len(file.parts) == 1 and room in FRONT_DOORS):
        assert not rooms & FRONT_DOORS


def test_no_room_depends_on_itself_through_others() -> None:
    graph: dict[str, set[str]] = {}
    for file in FILES:
        graph.setdefault(room_of(file), set()).update(imported_rooms(file))
    while graph:
        leaves = {room for room, needs in graph.items() if not needs & graph.keys()}
        assert leaves, f"these rooms import each other in a circle: {graph}"
        graph = {room: needs for room, needs in graph.items() if room not in leaves}


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


@pytest.mark.parametrize("file", FILES, ids=str)
def test_rooms_are_small_and_named_for_what_they_hold(file: Path) -> None:
    assert len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) <= 320
    assert not any(word in file.stem for word in ("util", "helper", "common", "misc"))


def test_the_house_has_few_files() -> None:
    assert len([f for f in FILES if f.name != "__init__.py"]) <= 105
