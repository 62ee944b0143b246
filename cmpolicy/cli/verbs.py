"""Commands with verbs: `python -m cmpolicy.data show dataset=hopper-medium`."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from cmpolicy.cli.command import LineFormatter, report
from cmpolicy.cli.keys import nearest
from cmpolicy.errors import InputError
from cmpolicy.training.interruption import StopSignal, stopped_at_once

HELP = ("help", "--help", "-h")


class Verb(NamedTuple):
    """What a verb does, and the dataclass of its keys."""

    call: Callable[[Any], None]
    config: type


def run_verbs(module: str, verbs: Mapping[str, Verb]) -> None:
    """Call the verb that the command line names with its keys, and exit as `cli.command.run` does.

    Args:
        module: as `python -m` takes it, for help.
    """
    log = logging.getLogger("cmpolicy")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    arguments = sys.argv[1:]
    try:
        if not arguments or any(word in HELP for word in arguments):
            print(help_of(module, verbs, arguments))
        else:
            verb, config = parse(module, verbs, arguments)
            with stopped_at_once():
                verb.call(config)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except StopSignal as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)
    except Exception as error:
        sys.exit(report(error))


def parse(module: str, verbs: Mapping[str, Verb], arguments: Sequence[str]) -> tuple[Verb, Any]:
    """Find the verb, and make its keys of ``key=value`` words.

    Raises:
        InputError: no such verb, or a word that is no ``key=value``.
        OmegaConfBaseException: no such key, or a value of another type.
        ValueError: a value out of range.
    """
    name, *words = arguments
    if name not in verbs:
        hint = nearest(name, verbs)
        raise InputError(f"there is no {name}{hint}; choose one of: {', '.join(verbs)}")
    for word in words:
        if "=" not in word:
            raise InputError(
                f"{word!r} is not key=value; `python -m {module} {name} --help` lists the keys"
            )
    schema = OmegaConf.structured(verbs[name].config)
    return verbs[name], OmegaConf.to_object(
        OmegaConf.merge(schema, OmegaConf.from_dotlist(list(words)))
    )


def help_of(module: str, verbs: Mapping[str, Verb], arguments: Sequence[str]) -> str:
    """Explain the verb among the arguments, or all."""
    chosen = [name for name in arguments if name in verbs] or list(verbs)
    lines = [f"python -m {module} VERB key=value …", ""]
    for name in chosen:
        lines.append(f"{name}: {(inspect.getdoc(verbs[name].call) or '').splitlines()[0]}")
        for field, text in documented(verbs[name].config).items():
            lines.append(f"  {field}: {text}")
        lines.append("")
    return "\n".join(lines).rstrip()


def documented(config: type) -> dict[str, str]:
    """Explain the fields of a dataclass by the `Attributes:` of its docstring, with defaults."""
    _, _, attributes = (inspect.getdoc(config) or "").partition("Attributes:\n")
    texts: dict[str, str] = {}
    for line in attributes.splitlines():
        if line.startswith("    ") and not line.startswith("     "):
            name, _, text = line.strip().partition(": ")
            texts[name] = text
        elif texts:
            texts[list(texts)[-1]] += f" {line.strip()}"
    fields: Any = dataclasses.fields(config)
    defaults = {field.name: field.default for field in fields}
    return {
        name: f"{text} [{defaults[name]}]" if defaults[name] not in (None, "???") else text
        for name, text in texts.items()
    }
