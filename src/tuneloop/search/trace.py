"""What a run reported, step by step, and what its best state makes of the held-out sessions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tuneloop.search.comparison import Comparison, compare

if TYPE_CHECKING:
    from tuneloop.search.evaluate import Evaluator

SPLIT = "test"


class Trace:
    """Follows one run through its reports.

    Args:
        evaluator: measures the run's model; what it measured last is kept with each evaluation.
        params: the run's hyperparameters.
        seed: of the intervals.
    """

    def __init__(self, evaluator: Evaluator, params: Mapping[str, Any], *, seed: int = 0) -> None:
        self.params = dict(params)
        self.reports: list[tuple[int, dict[str, float]]] = [(0, dict(evaluator.baseline))]
        self.best_step = 0
        self._evaluator = evaluator
        self._seed = seed
        self._measured = [(0, dict(evaluator.baseline), evaluator.before)]
        self._best = evaluator.before

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """A report of the run; an evaluation is reported before the next one is made."""
        self.reports.append((step, dict(metrics)))
        if any(name.startswith(f"{SPLIT}_") for name in metrics):
            self._measured.append((step, dict(metrics), self._evaluator.latest))

    def finish(self, metrics: Mapping[str, float]) -> None:
        """These are the metrics of the model that the run came to."""
        self.best_step, _, self._best = next(each for each in reversed(self._measured) if each[1] == metrics)
        self._measured.clear()

    @cached_property
    def comparison(self) -> Comparison:
        """That model beside the start model."""
        evaluator = self._evaluator
        now = {SPLIT: self._best[SPLIT]}
        return compare(
            evaluator.sessions[SPLIT],
            (evaluator.before[SPLIT][0], now[SPLIT][0]),
            (evaluator.session_values(SPLIT, evaluator.before), evaluator.session_values(SPLIT, now)),
            seed=self._seed,
        )

    def series(self, name: str) -> list[tuple[int, float]]:
        """Steps and values of a metric, by step."""
        return [(step, metrics[name]) for step, metrics in self.reports if name in metrics]
