"""Charts as SVG in a page: lines over updates, and intervals. Colours come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 430, 285
LEFT, RIGHT, TOP, BOTTOM = 54, 16, 12, 42  # margins of the plotting area
COLOURS = 8  # of the page
MOST_MARKERS = 40  # points of a line that has a mark at each

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A line with a band around it, and the thin lines that it summarises.

    Attributes:
        band: (x, low, high).
        colour: number of the line on the page; lines of equal colour have other dashes.
    """

    label: str
    points: Points
    colour: int
    band: Sequence[tuple[float, float, float]] = ()
    thin: Sequence[Points] = ()


@dataclass(frozen=True)
class Scale:
    """Maps an interval of values to pixels."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 1)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most about `most` round values that span the interval, from below it to above."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (m * step) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def short(value: float) -> str:
    """A tick's label: 20000 as 20k."""
    for factor, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{suffix}"
    return f"{round(value, 6):g}"


def limits(values: Iterable[float]) -> tuple[float, float]:
    """The smallest and the largest finite value, with a gap between them."""
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    return (low, high) if high > low else (low - (abs(low) or 1) / 2, high + (abs(low) or 1) / 2)


def line_chart(
    lines: Sequence[Line],
    xlabel: str,
    ylabel: str,
    levels: Sequence[tuple[str, float]] = (),
) -> str:
    """Lines over x; `levels` are labelled horizontals. Each point tells its values when pointed at.

    Values that are not finite are left out.
    """
    pairs = [p for line in lines for p in (*line.points, *(p for t in line.thin for p in t))]
    edges = [edge for line in lines for _, *band in line.band for edge in band]
    xs = ticks(*limits(x for x, _ in pairs), 5)
    ys = ticks(*limits([*(y for _, y in pairs), *edges, *(y for _, y in levels)]))
    x = Scale(xs[0], xs[-1], LEFT, WIDTH - RIGHT)
    y = Scale(ys[0], ys[-1], HEIGHT - BOTTOM, TOP)
    return "\n".join(
        [
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(f"{ylabel} over {xlabel}")}">',
            *axes(xs, ys, x, y, xlabel, ylabel),
            *(
                f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(v)}" y2="{y(v)}"/>'
                f'<text class="note" x="{WIDTH - RIGHT}" y="{y(v) - 4}" text-anchor="end">'
                f"{escape(name)}</text>"
                for name, v in levels
            ),
            *(part for line in lines for part in drawn(line, x, y, ylabel)),
            "</svg>",
        ]
    )


def axes(
    xs: Sequence[float], ys: Sequence[float], x: Scale, y: Scale, xlabel: str, ylabel: str
) -> Iterable[str]:
    """The grid and its labels."""
    middle = (HEIGHT - BOTTOM + TOP) / 2
    for v in ys:
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(v)}" y2="{y(v)}"/>'
        yield f'<text x="{LEFT - 6}" y="{y(v) + 4}" text-anchor="end">{short(v)}</text>'
    for v in xs:
        yield f'<text x="{x(v)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{short(v)}</text>'
    centre = (WIDTH - RIGHT + LEFT) / 2
    yield f'<text x="{centre}" y="{HEIGHT - 6}" text-anchor="middle">{escape(xlabel)}</text>'
    yield (
        f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(ylabel)}</text>"
    )


def drawn(line: Line, x: Scale, y: Scale, ylabel: str) -> Iterable[str]:
    """The band, the thin lines, the line and its marks."""
    style = f"c{line.colour % COLOURS} d{line.colour // COLOURS % 3}"
    if line.band:
        upper = [f"{x(at)},{y(high)}" for at, _, high in line.band]
        lower = [f"{x(at)},{y(low)}" for at, low, _ in reversed(line.band)]
        yield f'<polygon class="band {style}" points="{" ".join(upper + lower)}"/>'
    for points in line.thin:
        yield f'<polyline class="thin {style}" points="{path(points, x, y)}"/>'
    yield f'<polyline class="line {style}" points="{path(line.points, x, y)}"/>'
    if len(line.points) <= MOST_MARKERS:
        for at, value in line.points:
            if math.isfinite(value):
                told = escape(f"{line.label}\n{ylabel} {value:.4g} at {at:g}")
                yield (
                    f'<circle class="mark {style}" cx="{x(at)}" cy="{y(value)}" r="3">'
                    f"<title>{told}</title></circle>"
                )


def path(points: Points, x: Scale, y: Scale) -> str:
    """Points of a polyline."""
    return " ".join(f"{x(at)},{y(value)}" for at, value in points if math.isfinite(value))


def interval(
    mean: float, low: float, high: float, scale: tuple[float, float], colour: int, *, filled: bool
) -> str:
    """A small picture of a mean within its interval, on a scale that a table's rows share."""
    x = Scale(*scale, 6, 154)
    style = f"c{colour % COLOURS}"
    if not math.isfinite(mean):
        return ""
    bar = ""
    if math.isfinite(low) and math.isfinite(high):
        bar = f'<line class="bar {style}" x1="{x(low)}" x2="{x(high)}" y1="9" y2="9"/>'
    dot = f'<circle class="{"dot" if filled else "ring"} {style}" cx="{x(mean)}" cy="9" r="4.5"/>'
    axis = '<line class="grid" x1="6" x2="154" y1="9" y2="9"/>'
    return f'<svg class="interval" viewBox="0 0 160 18" aria-hidden="true">{axis}{bar}{dot}</svg>'
