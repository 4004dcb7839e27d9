"""Which hyperparameters to try next: Optuna, one trial after another, the same questions after a resume."""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tuneloop.iteration.record import RunRecord

if TYPE_CHECKING:
    from tuneloop.methods.contract import Direction

STARTUP_TRIALS = 3
# By how much of what another run has gained a run must be ahead of it to go on. Held-out figures of runs that are as
# good as one another differ by chance, and a whole run costs as much as the beginnings of many.
LEAD = 0.1
optuna.logging.set_verbosity(optuna.logging.WARNING)


class Search:
    """The search of one iteration over its method's space.

    Every trial is seeded by the seed and its number and sees only the records before it, so a resumed search asks
    what the first would have asked.

    Args:
        space: the hyperparameters and their distributions.
        direction: which way the main metric gets better.
        seed: of the whole search.
        defaults: a set of hyperparameters to try before anything else.
        best: those of the last iteration, which take the place of the defaults. The space is narrowed to their
            neighbourhood; hyperparameters that an older version did not have are searched as in a first iteration.
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        *,
        direction: "Direction",
        seed: int,
        defaults: Mapping[str, Any] | None = None,
        best: Mapping[str, Any] | None = None,
    ) -> None:
        defaults, best = (
            {name: value for name, value in (params or {}).items() if name in space and _holds(space[name], value)}
            for params in (defaults, best)
        )
        self.first = {**defaults, **best}
        self.space = {
            name: _narrow(distribution, best[name]) if name in best else distribution
            for name, distribution in space.items()
        }
        self.direction = direction
        self.seed = seed

    def ask(self, records: Sequence[RunRecord], *, start: float | None = None) -> optuna.Trial:
        """The next trial, after runs that came to these records; `start` is the start model's main metric, if known."""
        number = len(records)
        study = optuna.create_study(
            direction=self.direction,
            sampler=optuna.samplers.TPESampler(
                n_startup_trials=STARTUP_TRIALS, seed=zlib.crc32(f"{self.seed}/{number}".encode())
            ),
            pruner=Leads([record.course for record in records if record.outcome in ("done", "pruned")], start=start),
        )
        study.add_trials([self._frozen(record) for record in records])
        if self.first and not records:
            study.enqueue_trial(self.first)
        return study.ask(dict(self.space))

    def _frozen(self, record: RunRecord) -> FrozenTrial:
        states = {"done": TrialState.COMPLETE, "ineligible": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        state = states.get(record.outcome, TrialState.FAIL)
        params = {name: value for name, value in record.params.items() if name in self.space}
        return optuna.trial.create_trial(
            state=state,
            value=record.value if state == TrialState.COMPLETE else None,
            params=params,
            distributions={name: self.space[name] for name in params},
            intermediate_values=dict(enumerate(record.course)),
            # Above zero is infeasible.
            constraints={"eligible": float(record.outcome == "ineligible")} if state == TrialState.COMPLETE else None,
        )


class Leads(optuna.pruners.BasePruner):
    """Prunes a run that is not clearly ahead of every run before it at the same evaluation, of those that came so far.

    Successive halving, one run at a time, of which the best alone is promoted (Li et al., A System for Massively
    Parallel Hyperparameter Tuning, 2020), with a lead that chance does not give.

    Args:
        courses: the main metric at each evaluation of each earlier run, in order.
        start: the start model's main metric. A run must be ahead by `LEAD` of what the other has gained on it; without
            it, where the other has gained nothing, and where the other ended, a run as good as the other goes on.
    """

    def __init__(self, courses: Sequence[Sequence[float]], *, start: float | None = None) -> None:
        self._courses = courses
        self._start = start

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the run, by its last evaluation, is to end."""
        step = trial.last_step
        if step is None:
            return False
        sign = 1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1.0
        value = sign * trial.intermediate_values[step]
        for course in self._courses:
            if len(course) <= step:
                continue
            bar = sign * course[step]
            if self._start is not None and len(course) > step + 1:
                bar += LEAD * max(0.0, bar - sign * self._start)
            if value < bar:
                return True
        return False


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False


def _narrow(distribution: BaseDistribution, best: Any) -> BaseDistribution:
    """The same distribution around what was best: a third to three times on a log scale, else a quarter of it."""
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        low, high = distribution.low, distribution.high
        if distribution.log:
            return FloatDistribution(max(low, best / 3), min(high, best * 3), log=True)
        reach = (high - low) / 4
        return FloatDistribution(max(low, best - reach), min(high, best + reach))
    if isinstance(distribution, IntDistribution) and not distribution.log:
        reach = max(distribution.step, math.ceil((distribution.high - distribution.low) / 4))
        reach -= reach % distribution.step
        low, high = max(distribution.low, best - reach), min(distribution.high, best + reach)
        return IntDistribution(low, high, step=distribution.step)
    return distribution
