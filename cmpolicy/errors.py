"""Errors that mean the input was wrong, or a package is missing, and not the program."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """A wrong input, explained in one line: what was wrong, what was expected, what to do.

    The commands print the line and leave with exit code 2, without a traceback.
    """


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Import packages of the optional extra `name`.

    Raises:
        InputError: if one of them is not installed; it names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed; install the extra: pip install -e '.[{name}]'"
        ) from None


def override(key: str, value: object) -> str:
    """`key=value` to be pasted: quoted for Hydra's grammar, then for the shell."""
    text = str(value)
    if not re.fullmatch(r"[A-Za-z0-9_./:+@%*?|-]+", text):
        text = "'" + text.replace("'", "\\'") + "'"
    return shlex.quote(f"{key}={text}")


def one_line(error: Exception) -> str:
    """Return the message of an exception on one line, cut at 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
