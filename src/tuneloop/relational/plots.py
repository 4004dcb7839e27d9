"""Charts of a report: how a run learnt, and how far its predictions can be believed. The page's template draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuneloop.charts import Chart, Line, labels, line_chart, ticks
from tuneloop.relational.scores import words_of

Values = NDArray[np.float64]
WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 56, 544, 14, 232
BARS_TOP, BARS_BOTTOM = 244, 292
BINS, LEAST_IN_BIN = 10, 8
COLUMNS = 28
MAX_DOTS = 400
MAX_CLASSES = 10
MAX_CHARTS = 4
_TRAIN, _VALIDATION = "var(--grey)", "var(--blue)"


@dataclass(frozen=True)
class Dot:
    """A point with what a pointer over it says, and the ends of its interval."""

    x: float
    y: float
    says: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Plot:
    """Predictions beside what came true: means of bins, single examples, and how many there are of each prediction.

    Attributes:
        title: what it is.
        x, y: what the axes are.
        bins: means of bins, with intervals.
        cloud: single examples, (x, y).
        bars: (x, width, y, height, what a pointer over it says).
        diagonal: the ends of the line on which predictions are right: x, y, x, y.
        error: the expected calibration error, of probabilities.
        beyond: how many examples lie outside.
    """

    title: str
    x: str
    y: str
    bins: list[Dot]
    cloud: list[tuple[float, float]]
    bars: list[tuple[float, float, float, float, str]]
    diagonal: tuple[float, float, float, float]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    error: float | None = None
    beyond: int = 0
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM
    base: int = BARS_BOTTOM


def curves(found: Mapping[str, Sequence[tuple[int, float]]], metric: str, *, maximise: bool) -> list[Chart]:
    """A chart of each metric that was followed, the one that decides first; a mark where it is best."""
    found = {name: kept for name, points in found.items() if len(kept := _finite(points)) > 1}
    names = list(dict.fromkeys(_base(name) for name in found if name.startswith(("train_", "val_"))))
    names.sort(key=lambda name: (name != metric, name != "loss"))
    best = _best(found, names[0], maximise=maximise and names[0] != "loss") if names else None
    charts = []
    for name in names[:MAX_CHARTS]:
        lines = [
            Line(words, found[key], colour)
            for prefix, words, colour in (("train", "training", _TRAIN), ("val", "validation", _VALIDATION))
            for key in (f"{prefix}_metric_{name}", f"{prefix}_{name}")
            if key in found
        ]
        charts.append(line_chart(_title(name), lines, mark=best))
    return [chart for chart in charts if chart is not None]


def _finite(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [point for point in points if np.isfinite(point[1])]


def _title(name: str) -> str:
    """A metric's name as people say it; that of a learner's own as it is."""
    try:
        return words_of(name)[0]
    except KeyError:
        return name.replace("_", " ").capitalize()


def _base(name: str) -> str:
    return name.removeprefix("train_").removeprefix("val_").removeprefix("metric_")


def _best(found: Mapping[str, Sequence[tuple[int, float]]], name: str, *, maximise: bool) -> float | None:
    points = [point for key in (f"val_metric_{name}", f"val_{name}") for point in found.get(key, ())]
    if not points:
        return None
    return float((max if maximise else min)(points, key=lambda point: point[1])[0])


# -- predictions beside what came true


def reliability(true: Values, said: Values, *, title: str, of: str) -> Plot | None:
    """How often it is true where a probability was said, with its expected calibration error.

    Args:
        true: 0 and 1, (N,).
        said: probabilities, (N,).
        title: of the chart.
        of: what the share is of.
    """
    if not len(true):
        return None
    parts = _bins(said)
    error = sum(len(part) * abs(float(true[part].mean() - said[part].mean())) for part in parts) / len(true)
    top = min(1.0, max(float(said.max()), max(_wilson(true[part])[1] for part in parts)))
    frame = _Frame(0.0, top)
    bins = []
    for part in parts:
        low, high = _wilson(true[part])
        x, share = float(said[part].mean()), float(true[part].mean())
        says = f"said {x:.1%}, came true {share:.1%}, of {len(part):,}"
        bins.append(Dot(frame.x(x), frame.y(share), says, frame.y(low), frame.y(high)))
    return frame.plot(title, ("predicted probability", f"share {of}"), bins, [], said, error=error)


def scatter(true: Values, said: Values, *, label: str, seed: int = 0) -> Plot | None:
    """Numbers beside their predictions: means of tenths, and up to 400 examples."""
    if not len(true):
        return None
    both = np.concatenate([true, said])
    low, high = np.quantile(both, [0.005, 0.995])
    frame = _Frame(float(low), float(high))
    within = (true >= frame.low) & (true <= frame.high) & (said >= frame.low) & (said <= frame.high)
    shown = np.flatnonzero(within)
    if len(shown) > MAX_DOTS:
        shown = np.random.default_rng(seed).choice(shown, MAX_DOTS, replace=False)
    cloud = [(frame.x(float(said[at])), frame.y(float(true[at]))) for at in shown]
    bins = []
    for part in _bins(said):
        x, y = float(said[part].mean()), float(true[part].mean())
        if frame.low <= min(x, y) and max(x, y) <= frame.high:
            bins.append(Dot(frame.x(x), frame.y(y), f"said {x:,.4g}, came to {y:,.4g}, mean of {len(part):,}"))
    axes = (f"predicted {label}", f"actual {label}")
    return frame.plot("Predicted and actual", axes, bins, cloud, said[within], beyond=int((~within).sum()))


class _Frame:
    """A square of predictions by truth over the same range."""

    def __init__(self, low: float, high: float) -> None:
        self.ticks = ticks(low, high, 5)
        self.low, self.high = self.ticks[0], self.ticks[-1]

    def x(self, value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * self._share(value), 1)

    def y(self, value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * self._share(value), 1)

    def _share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def plot(
        self,
        title: str,
        axes: tuple[str, str],
        bins: list[Dot],
        cloud: list[tuple[float, float]],
        said: Values,
        *,
        error: float | None = None,
        beyond: int = 0,
    ) -> Plot:
        words = labels(self.ticks)
        return Plot(
            title,
            *axes,
            bins,
            cloud,
            self._bars(said),
            (LEFT, BOTTOM, RIGHT, TOP),
            [(self.x(value), word) for value, word in zip(self.ticks, words, strict=True)],
            [(self.y(value), word) for value, word in zip(self.ticks, words, strict=True)],
            error,
            beyond,
        )

    def _bars(self, said: Values) -> list[tuple[float, float, float, float, str]]:
        counts, edges = np.histogram(said, bins=COLUMNS, range=(self.low, self.high))
        most = max(int(counts.max()), 1)
        bars = []
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
            if count:
                tall = max(1.0, round((BARS_BOTTOM - BARS_TOP) * int(count) / most, 1))
                says = f"{int(count):,} predictions from {low:,.3g} to {high:,.3g}"
                wide = round(self.x(high) - self.x(low) - 1.5, 1)
                bars.append((self.x(low) + 0.75, wide, BARS_BOTTOM - tall, tall, says))
        return bars


def _bins(said: Values) -> list[NDArray[np.int64]]:
    """The examples by prediction, in up to ten parts of about as many; equal predictions stay together."""
    order = np.argsort(said, kind="stable")
    count = int(np.clip(len(said) // LEAST_IN_BIN, 1, BINS))
    wanted = np.linspace(0, len(said), count + 1).astype(int)[1:-1]
    starts = np.searchsorted(said[order], said[order][wanted]) if len(wanted) else wanted
    return [part for part in np.split(order, np.unique(starts)) if len(part)]


def _wilson(true: Values, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, Probable inference, the law of succession, 1927)."""
    n, share = len(true), float(true.mean())
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    return max(0.0, min(centre - reach, share)), min(1.0, max(centre + reach, share))


# -- classes


@dataclass(frozen=True)
class Confusion:
    """How often a class was taken for another: (actual, counts by prediction, shares of the row)."""

    names: list[str]
    rows: list[tuple[str, list[int], list[float]]]


def confusion(true: NDArray[np.int64], chosen: NDArray[np.int64], names: Sequence[str]) -> Confusion:
    """The most frequent classes; the others are one."""
    counts = np.bincount(true * len(names) + chosen, minlength=len(names) ** 2).reshape(len(names), -1)
    shown = list(names)
    if len(names) > MAX_CLASSES:
        order = np.argsort(-(counts.sum(0) + counts.sum(1)), kind="stable")
        top, rest = np.sort(order[: MAX_CLASSES - 1]), np.sort(order[MAX_CLASSES - 1 :])
        groups = [np.array([at]) for at in top] + [rest]
        counts = np.array([[counts[one][:, other].sum() for other in groups] for one in groups])
        shown = [names[at] for at in top] + [f"{len(rest):,} others"]
    sums = np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [
        (name, [int(each) for each in row], [float(each) for each in share])
        for name, row, share in zip(shown, counts, counts / sums, strict=True)
    ]
    return Confusion(shown, rows)
