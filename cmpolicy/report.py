"""Compare runs on one page: `cmpolicy-report RUNS... [out=report.html]`.

RUNS are run directories, directories above some (of a sweep, of several seeds), or globs. Runs that
differ only in their seeds form a group. The page shows learning curves, interquartile means with
bootstrap intervals, what differs between configurations, videos, and a table of all runs. It is one
file that needs no network. A CSV of the same name has a row a run.

    python -m cmpolicy.report runs/hopper-medium
    python -m cmpolicy.report 'runs/*/ac-*' runs/hopper-medium/bc-seed0-20260101-120000 out=ac.html
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cmpolicy.cli.command import in_one_line
from cmpolicy.cli.help import asks_for_help, print_quietly
from cmpolicy.errors import InputError


def report(arguments: Sequence[str]) -> None:
    """Write the page and the table that the command line describes."""
    from cmpolicy.comparison.page import write_report  # slow to import

    options = [a.removeprefix("out=") for a in arguments if a.startswith("out=")]
    runs = [a for a in arguments if not a.startswith("out=")]
    if not runs or len(options) > 1:
        raise InputError("give RUNS... and at most one out=FILE.html; --help explains them")
    page = write_report(runs, *options)
    print(f"table: {page.with_suffix('.csv')}")
    print(f"page: {page}")


def main() -> None:
    """Run the command."""
    arguments = sys.argv[1:]
    if asks_for_help(arguments):
        print_quietly(__doc__.strip())
        return
    in_one_line(lambda: report(arguments))


if __name__ == "__main__":
    main()
