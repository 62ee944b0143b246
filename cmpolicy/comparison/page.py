"""A report on runs: one HTML file that needs nothing else, and a CSV beside it."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Iterable, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cmpolicy.atomic_file import write_atomically
from cmpolicy.comparison.interquartile_mean import CONFIDENCE, RESAMPLINGS
from cmpolicy.comparison.runs import Group, RunSummary, find_runs, group_runs, load_runs
from cmpolicy.comparison.sections import (
    aggregate_section,
    media_section,
    runs_section,
    settings_section,
    task_section,
)
from cmpolicy.errors import InputError

STYLE = Path(__file__).with_name("page.css")
METHOD = (
    "Scores are those of the evaluation at the end of each run, on episodes that chose no "
    "checkpoint. <b>last</b> is the last checkpoint. <b>best</b> is the one that scored highest "
    "during training; it is flattering, because it was chosen by scores. IQM is the interquartile "
    f"mean over runs, with the middle {CONFIDENCE:.0%} of {RESAMPLINGS:,} stratified bootstrap "
    "resamplings in brackets (Agarwal et al. 2021). Bands around curves are the same intervals at "
    "the evaluations during training; thin lines are single runs. Of one run there is no interval, "
    "and that of three says little."
)


def write_report(runs: Iterable[str | Path], out: str | Path = "report.html") -> Path:
    """Compare runs in the HTML file `out`, and in a CSV of the same name; return the former.

    Args:
        runs: run directories, directories above some, or globs of either.

    Raises:
        InputError: if they name no run that can be read, or `out` cannot be written.
    """
    out = Path(out)
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"out={out}: expected a name that ends in .html")
    groups = group_runs(load_runs(find_runs(runs)))
    try:
        write_atomically(out, page(groups).encode())
        write_atomically(out.with_suffix(".csv"), table(groups).encode())
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}; choose another out=") from error
    return out


def page(groups: Sequence[Group]) -> str:
    """The whole page."""
    colours = {label: i for i, label in enumerate(dict.fromkeys(g.label for g in groups))}
    tasks: dict[str, list[Group]] = {}
    for group in groups:
        tasks.setdefault(group.task, []).append(group)
    runs = [run for group in groups for run in group.runs]
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    title = f"{counted(len(runs), 'run')} on {', '.join(tasks)}"
    body = [
        f"<header><h1>{escape(title)}</h1>",
        f"<p class='quiet'>cmpolicy {version('cmpolicy')}, {now}</p>",
        *map(warning, caveats(runs)),
        "</header>",
        aggregate_section(groups, colours),
        *(task_section(task, own, colours) for task, own in tasks.items()),
        settings_section(groups),
        media_section(groups),
        runs_section(groups),
        f"<section><h2>How to read this</h2><p>{METHOD}</p></section>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n"
        f"</head>\n<body>\n{chr(10).join(filter(None, body))}\n</body>\n</html>\n"
    )


def counted(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def warning(text: str) -> str:
    """A paragraph that is seen."""
    return f"<p class='warning'>{escape(text)}</p>"


def caveats(runs: Sequence[RunSummary]) -> Iterable[str]:
    """What limits the use of the scores."""
    unfinished = [run for run in runs if run.last is None]
    if unfinished:
        number = counted(len(unfinished), "run")
        yield f"{number} without a final score: thin lines, not in any mean."
    data = [run.results.get("dataset") or {} for run in runs]
    names = dict.fromkeys(str(d.get("dataset_id")) for d in data if d.get("comparable") is False)
    if names:
        yield f"Scores on {', '.join(names)} are NOT comparable with published ones."
    versions = {tuple(sorted(run.results.get("versions", {}).items())) for run in runs}
    if len(versions) > 1:
        yield "The runs used different versions of packages, which the table of runs names."


def table(groups: Sequence[Group]) -> str:
    """A row a run, as CSV."""
    rows = [row_of(group, run) for group in groups for run in group.runs]
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def row_of(group: Group, run: RunSummary) -> dict[str, Any]:
    """What the CSV says of a run."""
    results = run.results
    row: dict[str, Any] = {"run": run.path, "task": run.task, "method": run.method}
    row |= {"settings": ", ".join(f"{key}={value}" for key, value in group.settings)}
    row |= {"seed": run.seed, "finished": run.last is not None, "measure": run.measure.key}
    for name in ("last", "best"):
        outcome = getattr(run, name)
        for part in ("score", "error", "step"):
            row[f"{name}_{part}"] = "" if outcome is None else getattr(outcome, part)
    row |= {"data": run.config["data"], "environment": run.config["environment"]}
    row["comparable"] = (results.get("dataset") or {}).get("comparable", "")
    for name in ("wall_seconds", "updates_per_second", "device", "machine", "precision"):
        row[name] = results.get(name, "")
    row |= {"acceleration": results.get("acceleration", ""), "date": results.get("date", "")}
    return row | {f"version_{name}": value for name, value in results.get("versions", {}).items()}
