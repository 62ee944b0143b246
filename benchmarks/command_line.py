"""Options of a benchmark: `key=value` on the command line, values as YAML; and its `--help`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml


def show_help(arguments: Sequence[str]) -> None:
    """Print the docstring of the script that runs and end it, if the command line asks for help."""
    if {"-h", "--help"} & set(arguments):
        print((sys.modules["__main__"].__doc__ or "").strip())
        sys.exit()


def given_options(arguments: Sequence[str], known: Iterable[str]) -> dict[str, Any]:
    """What the command line gives; it ends the script with one line at an unknown key."""
    show_help(arguments)
    names, given = sorted(known), {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in names:
            sys.exit(f"unknown option {key!r}, expected one of {', '.join(names)}")
        given[key] = yaml.safe_load(value)
    return given


def read_options(arguments: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, and over them what the command line gives."""
    return {**defaults, **given_options(arguments, defaults)}
