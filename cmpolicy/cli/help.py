"""`--help` of a command: what it does, and every key that applies, with its value and meaning.

Meanings come from the dataclasses of the configuration: from the section ``Attributes:`` of a
docstring, or from the comment at a field.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import os
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

WIDTH = 88
FLAGS = {"-h", "--help"}
NAME_FLAGS = ("--config-name", "-cn")
MORE = """\
Also:
  -m                run every combination of KEY=A,B,C (a sweep)
  --cfg job         print the configuration, and do nothing
  --hydra-help      Hydra's own flags, for launchers and sweepers
  -sc install=bash  print a script of shell completion, to be evaluated by the shell; or zsh, fish
"""


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command line is only a question."""
    return bool(FLAGS & set(arguments))


def print_quietly(text: str) -> None:
    """Print; whoever reads it may leave early, as `head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def help_of(document: str, config_path: str, config_name: str, arguments: Sequence[str]) -> str:
    """The help of a command with the choices that its command line makes.

    Args:
        document: what the command does.
        config_name: unless the arguments give another one.
    """
    config_name = given_name(arguments) or config_name
    overrides = [a for a in arguments if "=" in a and not a.startswith("-")]
    with hydra.initialize_config_dir(config_path, version_base="1.3"):
        config = hydra.compose(config_name, overrides, return_hydra_config=True)
        groups = dict(groups_of(config.hydra.runtime.choices))
    parts = [textwrap.dedent(document).strip()]
    if groups:
        width = max(map(len, groups))
        parts.append("Choices, GROUP=NAME:")
        parts[-1] += "".join(f"\n  {name:{width}}  {text}" for name, text in groups.items())
    with open_dict(config):
        del config["hydra"]
    keys = (entry(key, value, meaning) for key, value, meaning in explained(config))
    parts.append("\n".join(["Keys, KEY=VALUE, with the values they have now:", *keys]))
    parts.append(MORE)
    return "\n\n".join(parts)


def given_name(arguments: Sequence[str]) -> str | None:
    """The configuration that ``--config-name`` asks for."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, _, value = argument.partition("=")
        if flag in NAME_FLAGS:
            return value or following
    return None


def groups_of(choices: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The groups of a configuration, each with its names, the chosen one in brackets."""
    loader = GlobalHydra.instance().config_loader()
    for group, chosen in choices.items():
        if group.startswith("hydra/") or "@" in group:
            continue
        names = [n for n in loader.get_group_options(group) if not n.endswith("_schema")]
        listed = ", ".join(f"[{n}]" if n == chosen else n for n in names)
        indent = " " * 4
        yield group, textwrap.fill(listed, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def explained(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every key below `config`, with its value as text, and its meaning or nothing."""
    kind = OmegaConf.get_type(config)
    known = meanings(kind) if dataclasses.is_dataclass(kind) else {}
    for name in map(str, config):
        if OmegaConf.is_missing(config, name):
            yield f"{prefix}{name}", "REQUIRED", known.get(name, "")
        elif isinstance(config[name], DictConfig) and dataclasses.is_dataclass(
            OmegaConf.get_type(config[name])
        ):
            yield from explained(config[name], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", as_text(config[name]), known.get(name, "")


def as_text(value: Any) -> str:
    """A value as the command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if OmegaConf.is_config(value):
        return str(OmegaConf.to_container(value, resolve=True)).replace("'", "")
    return str(value)


def entry(key: str, value: str, meaning: str) -> str:
    """A key, and below it what it means."""
    indent = " " * 6
    text = textwrap.fill(meaning, WIDTH, initial_indent=indent, subsequent_indent=indent)
    return f"  {key}={value}" + (f"\n{text}" if text else "")


def meanings(kind: type) -> dict[str, str]:
    """What the fields of a dataclass mean, those of its bases too."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if dataclasses.is_dataclass(cls):
            found |= comments_at_fields(cls) | attributes_of(cls.__dict__.get("__doc__") or "")
    return found


def attributes_of(docstring: str) -> dict[str, str]:
    """The entries ``name: meaning`` of the section ``Attributes:``; one may be of several names."""
    section = re.search(
        r"^Attributes:\n((?:    .*\n|\n)*)", inspect.cleandoc(docstring) + "\n", re.M
    )
    found: dict[str, str] = {}
    for names, text in re.findall(
        r"^    (\w[\w, ]*): ((?:.*\n)(?:     .*\n|\n)*)", section[1] if section else "", re.M
    ):
        found |= dict.fromkeys(re.split(r",\s*", names), " ".join(text.split()))
    return found


def comments_at_fields(cls: type) -> dict[str, str]:
    """The comment behind each field of a class, or the lines of comment above it."""
    source = textwrap.dedent(inspect.getsource(cls))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    lines = source.splitlines()
    found = {}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while lines[first - 2].strip().startswith("#"):
                first -= 1
            own = [comments[n] for n in range(first, (node.end_lineno or 0) + 1) if n in comments]
            if own:
                found[node.target.id] = " ".join(own)
    return found
