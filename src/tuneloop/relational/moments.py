"""When the examples of a task are: moments whose labels are known, later ones held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

_UNITS = (timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1))
# A held-out split has about so many examples, from at most a tenth of the moments.
HELD_OUT_EXAMPLES = 1000
HELD_OUT_SHARE = 10
TRAIN_EXAMPLES = 1_000_000
LEAST_TRAIN_MOMENTS = 3


@dataclass(frozen=True)
class Moments:
    """The moments of each split, each in its order."""

    train: tuple[datetime, ...]
    validation: tuple[datetime, ...]
    test: tuple[datetime, ...]


def known_moments(
    first: datetime, last: datetime, horizon: timedelta, *, every: timedelta, start: datetime | None = None
) -> list[datetime]:
    """All moments whose labels are known, the latest first.

    Args:
        first: when the data begin.
        last: when they end: no label looks beyond it.
        horizon: how far a label looks ahead.
        every: from one moment to the next.
        start: no moment is before it; by default one horizon after the data begin, so that there is a past to see.
    """
    unit = next((each for each in _UNITS if not (horizon % each or every % each)), timedelta(microseconds=1))
    midnight = datetime.combine(last.date(), datetime.min.time())
    latest = midnight + (last - midnight) // unit * unit - horizon
    start = first + horizon if start is None else start
    return [latest - step * every for step in range(max(0, (latest - start) // every + 1))]


def split_moments(known: Sequence[datetime], horizon: timedelta, examples: int) -> Moments | None:
    """Which of the moments are for what.

    The last are the test, those before validation, the rest training. A split's labels end before the next begins.
    Where a moment has few examples the held-out splits have several, at most a tenth of all each; where it has
    many, the oldest moments are left out.

    Args:
        known: the latest first.
        horizon: how far a label looks ahead.
        examples: how many one moment has, about.

    Returns:
        None where the moments are too few.
    """
    held = min(-(-HELD_OUT_EXAMPLES // max(examples, 1)), max(1, len(known) // HELD_OUT_SHARE))
    test = known[:held]
    earlier = [time for time in known if test and time + horizon <= test[-1]]
    validation = earlier[:held]
    train = [time for time in earlier if validation and time + horizon <= validation[-1]]
    train = train[: max(LEAST_TRAIN_MOMENTS, TRAIN_EXAMPLES // max(examples, 1))]
    if not train:
        return None
    return Moments(tuple(train[::-1]), tuple(validation[::-1]), tuple(test[::-1]))
