"""Names that a package adds to the library: by a decorator, or by an entry point when installed.

An entry point of the group ``cmpolicy.agents``, ``cmpolicy.losses``, ``cmpolicy.networks``,
``cmpolicy.encoders`` or ``cmpolicy.tasks`` is loaded when its name is asked for, or when all are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from cmpolicy.errors import InputError, one_line

log = logging.getLogger("cmpolicy")
T = TypeVar("T")

GROUPS = {
    "agent": "cmpolicy.agents",
    "loss": "cmpolicy.losses",
    "network": "cmpolicy.networks",
    "encoder": "cmpolicy.encoders",
    "task": "cmpolicy.tasks",
}


class NotInstalledError(InputError, ValueError):
    """A name that neither the library nor an installed package has."""


def add(kind: str, registry: dict[str, T], name: str, thing: T) -> T:
    """Register `thing` as `name`; the same definition may be run again, as in a notebook.

    Raises:
        ValueError: if something else has that name.
    """
    there = registry.get(name, thing)
    if identity(there) != identity(thing):
        raise ValueError(f"{kind} {name!r} exists already: {there!r}; choose another name")
    registry[name] = thing
    return thing


def identity(thing: object) -> object:
    """Where a class or a function is defined; of other objects their value."""
    place = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    return place if place[1] else thing


def find(kind: str, registry: dict[str, T], name: str) -> T:
    """Give `registry[name]`; what is not there is looked for in installed packages.

    Raises:
        NotInstalledError: if no package has it.
        InputError: if the package that has it does not load.
    """
    if name not in registry:
        for entry in entry_points(group=GROUPS[kind], name=name):
            add(kind, registry, name, load(entry))
    if name not in registry:
        known = [*registry, *(e.name for e in entry_points(group=GROUPS[kind]))]
        there = ", ".join(dict.fromkeys(known)) or "none"
        raise NotInstalledError(f"{kind} {name!r} is not installed; there are: {there}")
    return registry[name]


def find_all(kind: str, registry: dict[str, T]) -> Mapping[str, T]:
    """Give `registry` with what installed packages add; one that does not load is warned of."""
    for entry in entry_points(group=GROUPS[kind]):
        if entry.name not in registry:
            try:
                add(kind, registry, entry.name, load(entry))
            except (InputError, ValueError) as error:
                log.warning("%s", error)
    return registry


def load(entry: EntryPoint) -> T:  # type: ignore[type-var]
    """Import what an entry point names.

    Raises:
        InputError: if that fails.
    """
    try:
        loaded: T = entry.load()
    except Exception as error:
        package = entry.dist.name if entry.dist else entry.value
        raise InputError(
            f"the package {package} has {entry.group} {entry.name!r}, which does not load: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    return loaded


def registering(kind: str, registry: dict[str, T]) -> Callable[[str], Callable[[T], T]]:
    """Make the decorator that adds to `registry`: ``@register_agent("mine")``."""

    def register(name: str) -> Callable[[T], T]:
        return lambda thing: add(kind, registry, name, thing)

    return register
