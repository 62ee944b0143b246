"""The one exception that means *the input was wrong*, not the program."""

from __future__ import annotations


class InputError(Exception):
    """A wrong input, explained in one line: what was wrong, what was expected, what to do.

    The commands print the line and leave with exit code 2, without a traceback.
    """
