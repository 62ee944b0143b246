"""`cmpolicy.report` on made-up runs: groups, estimates, the table, and the page in a browser."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmpolicy import report
from cmpolicy.comparison.chart import limits, short, ticks
from cmpolicy.comparison.interquartile_mean import estimate, interquartile_mean
from cmpolicy.comparison.page import write_report
from cmpolicy.comparison.runs import find_runs, group_runs, load_runs
from cmpolicy.comparison.sections import learning_curve
from cmpolicy.errors import InputError

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(name, seed, score, …): the directory of a run that ended after 20 updates."""

    def written(
        name: str,
        seed: int = 0,
        score: float | None = 50.0,
        task: str = "hopper",
        agent: str = "ac",
        finished: bool = True,
        **keys: Any,
    ) -> Path:
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(
            json.dumps({"seed": seed, "agent": {"name": agent}, **keys})
        )
        last = {"step": 20, "normalized_score": score, "score_standard_error": 1.5}
        curve = [{"step": step, "eval/normalized_score": 4.0 * step} for step in (10, 20)]
        results = {"task": task, "agent": agent, "seed": seed, "evaluations": curve}
        results |= {"last": last, "best": {**last, "step": 10}} if finished else {}
        results |= {"versions": {"cmpolicy": "0.1.0"}, "wall_seconds": 3700}
        results |= {"dataset": {"dataset_id": f"{task}-v2", "comparable": task != "hopper"}}
        (run / "results.json").write_text(json.dumps(results))
        (run / "metrics.csv").write_text("step,critic/loss\n5,1.5\n10,0.5\n")
        return run

    return written


# Statistics -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ([3.0], 3.0),
        ([0.0, 6.0, 3.0], 3.0),
        ([-99, 1, 3, 99], 2.0),
        ([0, 1, 2, 3, 4, 5, 6, 99], 3.5),
    ],
)
def test_the_interquartile_mean_drops_a_quarter_at_each_end(
    scores: list[float], mean: float
) -> None:
    assert float(interquartile_mean(np.array(scores, dtype=float))) == mean


def test_the_interval_holds_the_mean_and_narrows_with_runs() -> None:
    rng = np.random.default_rng(1)
    few, many = (estimate([rng.normal(50, 10, n).tolist()]) for n in (5, 80))
    assert few.low < few.mean < few.high
    assert many.high - many.low < (few.high - few.low) / 2
    assert abs(many.mean - 50) < 4


def test_runs_are_drawn_anew_within_each_task() -> None:
    """Two tasks without spread among runs: only drawing across tasks would give an interval."""
    assert estimate([[10.0] * 4, [90.0] * 4]) == (50.0, 50.0, 50.0)
    assert np.isnan(estimate([[10.0], [90.0]]).low)
    assert np.isnan(estimate([]).mean)


# Runs -----------------------------------------------------------------------------------------


def test_runs_are_found_below_directories_and_by_globs(write: Write, tmp_path: Path) -> None:
    runs = [write("a/x=0.1-seed0"), write("a/several/seed-3", 3), write("b/y")]
    (runs[1].parent / "config.yaml").write_text("{}")  # of all seeds
    assert find_runs([tmp_path / "runs"]) == [runs[1], runs[0], runs[2]]
    assert find_runs([str(tmp_path / "runs/*/x*"), runs[0]]) == [runs[0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [("nowhere", "there is no .*nowhere"), ("empty", "holds no run"), ("no*glob", "there is no")],
)
def test_what_names_no_run_is_refused(tmp_path: Path, given: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        find_runs([tmp_path / given])


def test_runs_that_differ_in_seeds_and_places_alone_form_a_group(
    write: Write, tmp_path: Path
) -> None:
    for i, radius in enumerate((0.1, 0.1, 0.2)):
        write(
            f"ac{i}", i, agent="ac", online={"radius": radius}, run_dir=str(i), device=f"cuda:{i}"
        )
    write("bc", agent="bc")
    groups = group_runs(load_runs(find_runs([tmp_path])))
    assert [(g.label, len(g.runs)) for g in groups] == [
        ("ac, radius=0.1", 2),
        ("ac, radius=0.2", 1),
        ("bc", 1),
    ]


def test_many_settings_become_a_number(write: Write, tmp_path: Path) -> None:
    for value in (1, 2):
        write(f"r{value}", **dict.fromkeys(("a", "b", "c", "d"), value))
    groups = group_runs(load_runs(find_runs([tmp_path])))
    assert [g.label for g in groups] == ["ac #1", "ac #2"]


def test_a_damaged_run_is_left_out_and_told(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = write("good"), write("bad")
    (bad / "results.json").write_text("{")
    caplog.set_level("WARNING", "cmpolicy")
    assert [run.path for run in load_runs([bad, good])] == [good]
    with pytest.raises(InputError, match="none of the runs"):
        load_runs([bad])


def test_the_curve_is_that_of_finished_runs_where_there_are_some(write: Write) -> None:
    paths = [write("a"), write("b", 1), write("c", 2, finished=False)]
    results = json.loads((paths[2] / "results.json").read_text())
    del results["evaluations"][1]
    (paths[2] / "results.json").write_text(json.dumps(results))
    (group,) = group_runs(load_runs(paths))
    line = learning_curve(group, 0)
    assert line.points == [(10, 40.0), (20, 80.0)]
    assert [len(points) for points in line.thin] == [2, 2, 1]
    assert line.band == [(10, 40.0, 40.0), (20, 80.0, 80.0)]


def test_distances_of_toys_are_scores(write: Write) -> None:
    run = write("toy")
    last = {"step": 9, "distances": {"1 step": {"w1": 0.25}, "2 steps": {"w1": 0.1}}}
    results = {"task": "gmm", "loss": {"name": "sct"}, "evaluations": [], "last": last}
    (run / "results.json").write_text(json.dumps(results))
    (loaded,) = load_runs([run])
    assert (loaded.method, loaded.measure.key, loaded.measure.higher_is_better) == (
        "sct",
        "w1",
        False,
    )
    assert loaded.last is not None
    assert (loaded.last.step, loaded.last.score) == (9, 0.25)


# Page and table -------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    """Counts tags and checks that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def page(write: Write, tmp_path: Path) -> Path:
    """A report on three configurations, two tasks, a film and a picture, one run unfinished."""
    for task in ("hopper", "walker"):
        for seed, score in enumerate((40.0, 50.0, 60.0)):
            write(f"{task}/ac{seed}", seed, score, task, online={"radius": 0.1})
            write(f"{task}/wide{seed}", seed, score + 20, task, online={"radius": 0.2})
    film = write("hopper/bc<&>", 0, None, agent="bc", finished=False) / "videos" / "step-20.mp4"
    film.parent.mkdir()
    film.write_bytes(b"film")
    (film.parents[1] / "samples.png").write_bytes(b"picture")
    return write_report([tmp_path / "runs"], tmp_path / "out.html")


def test_the_page_holds_everything_and_fetches_nothing(page: Path) -> None:
    text, tags = page.read_text(), Tags()
    tags.feed(text)
    assert not tags.open
    assert (tags.seen["video"], tags.seen["img"]) == (1, 1)
    assert "data:video/mp4;base64,ZmlsbQ==" in text
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|http", text)
    for told in (
        *(
            "Over 2 tasks",
            "hopper",
            "walker",
            "ac, radius=0.1",
            "ac, radius=0.2",
            "mean of the data",
        ),
        *(
            "online.radius",
            "critic/loss",
            "1 run without a final score",
            "NOT comparable",
            "1:02 h",
        ),
    ):
        assert (told in text) != (told == "mean of the data"), told
    assert "bc&lt;&amp;&gt;" in text
    assert "bc<&>" not in text


def test_the_table_has_a_row_a_run(page: Path) -> None:
    with page.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert rows[0]["last_score"] == "40.0"
    assert (rows[0]["best_step"], rows[0]["version_cmpolicy"], rows[0]["comparable"]) == (
        "10",
        "0.1.0",
        "False",
    )
    (unfinished,) = (row for row in rows if row["finished"] == "False")
    assert (unfinished["method"], unfinished["last_score"]) == ("bc", "")


def test_the_command(
    write: Write, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("x=1")
    assert command(report, "runs/x=1") == (0, "")
    assert (tmp_path / "report.html").is_file()
    assert command(report, "runs", "out=all.html")[0] == 0
    assert (tmp_path / "all.csv").is_file()
    for wrong in ([], ["runs", "out=a.pdf"], ["runs", "out=no/where.html"], ["nowhere"]):
        code, err = command(report, *wrong)
        assert (code, err.count("\n")) == (2, 1), err
    assert command(report, "--help") == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_the_page_within_its_width(page: Path, tmp_path: Path, width: int) -> None:
    """The page measures itself in a frame, because a window of Chromium has 500 pixels at least."""
    page.write_text(
        page.read_text().replace(
            "</body>",
            "<script>const shown = s => [...document.querySelectorAll(s)].filter("
            "e => e.getBoundingClientRect().width > 0).length; parent.postMessage(JSON.stringify(["
            "document.documentElement.scrollWidth, innerWidth, "
            "...['.chart', '.band', '.interval'].map(shown)]), '*')</script></body>",
        )
    )
    (tmp_path / "frame.html").write_text(
        "<title>[]</title><script>onmessage = e => document.title = e.data</script>"
        f"<iframe src='file://{page}' width={width} height=900 frameborder=0></iframe>"
    )
    assert CHROMIUM is not None
    shown = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
         f"file://{tmp_path}/frame.html"],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    title = re.search(r"<title>(\[.*?\])</title>", shown)
    assert title is not None
    scroll, inner, charts, bands, intervals = json.loads(title[1])
    assert inner == width
    assert scroll <= width
    assert charts >= 2  # of the tasks; those of the metrics are folded
    assert bands == 4
    assert intervals == 12


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 97.1), (0.001, 0.0013), (5e5, 1e6)])
def test_ticks_are_few_and_span_the_values(low: float, high: float) -> None:
    at = ticks(low, high)
    assert at[0] <= low < high <= at[-1]
    assert 3 <= len(at) <= 8
    assert limits([3.0, float("nan")]) == (1.5, 4.5)
    assert [short(v) for v in (20_000, 2.5e6, 0.25, -1500)] == ["20k", "2.5M", "0.25", "-1.5k"]
