"""Metrics derived from a run's training metrics, to read a noisy curve by."""

import math
from collections import deque
from collections.abc import Mapping

WINDOW = 10


class Series:
    """Adds `mean_`, `sliding_`, `min_` and `max_` of every `train_…` metric, over its values so far.

    `sliding_` is the mean of the last 10 values. Values that are no finite numbers are passed on and otherwise left
    out.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def add(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """These metrics, and what is derived from them and those before."""
        derived = dict(metrics)
        for name, value in metrics.items():
            if name.startswith("train_") and math.isfinite(value):
                derived.update(self._seen.setdefault(name, _Seen()).add(name, float(value)))
        return derived


class _Seen:
    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.low = math.inf
        self.high = -math.inf
        self.last: deque[float] = deque(maxlen=WINDOW)

    def add(self, name: str, value: float) -> dict[str, float]:
        self.count += 1
        self.mean += value / self.count - self.mean / self.count  # a sum would overflow or lose digits
        self.low, self.high = min(self.low, value), max(self.high, value)
        self.last.append(value)
        return {
            f"mean_{name}": self.mean,
            f"sliding_{name}": math.fsum(each / len(self.last) for each in self.last),
            f"min_{name}": self.low,
            f"max_{name}": self.high,
        }
