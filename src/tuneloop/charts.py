"""Line charts for a page: where everything stands, in units of an SVG. The page's template draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 34
MAX_POINTS = 200
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One series: its name, its points by x, its colour, and whether each point is marked."""

    name: str
    points: Points
    colour: str
    dots: bool = False


@dataclass(frozen=True)
class Drawn:
    """A line as the page draws it."""

    name: str
    colour: str
    path: str
    dots: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart as the page draws it: ticks are places and labels; `mark` is the place of a vertical line."""

    title: str
    lines: list[Drawn]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    mark: float | None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def line_chart(title: str, lines: Sequence[Line], *, mark: float | None = None) -> Chart | None:
    """A chart of these lines over a common x from 0; None when there is nothing to draw."""
    lines = [Line(line.name, thinned(line.points), line.colour, line.dots) for line in lines if line.points]
    if not lines:
        return None
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks, y_ticks = ticks(0, max(*xs, 1), 6), ticks(min(ys), max(ys), 5)
    x_end, (low, high) = max(*xs, 1), (min(y_ticks[0], *ys), max(y_ticks[-1], *ys))

    def place_x(x: float) -> float:
        return round(LEFT + (WIDTH - RIGHT - LEFT) * x / x_end, 1)

    def place_y(y: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (y - low) / (high - low), 1)

    drawn = []
    for line in lines:
        places = [(place_x(x), place_y(y)) for x, y in line.points]
        path = "M" + "L".join(f"{x} {y}" for x, y in places)
        drawn.append(Drawn(line.name, line.colour, path, places if line.dots else []))
    return Chart(
        title,
        drawn,
        [(place_x(x), f"{x:,g}") for x in x_ticks if x <= x_end],
        [(place_y(y), label) for y, label in zip(y_ticks, labels(y_ticks), strict=True)],
        None if mark is None else place_x(mark),
    )


def thinned(points: Points) -> list[tuple[float, float]]:
    """The points, or means of neighbouring ones when there are more than a chart can show."""
    size = math.ceil(len(points) / MAX_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size or 1)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that take in `low` to `high`."""
    if high - low < 1e-9:
        low, high = low - 0.01, high + 0.01
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(each * magnitude for each in (1, 2, 5, 10) if each * magnitude >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def labels(values: Sequence[float]) -> list[str]:
    """Ticks as words, with as many digits as tell them apart."""
    step = values[1] - values[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{value:,.{digits}f}".replace("-", "−") for value in values]
