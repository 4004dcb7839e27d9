"""Which learner and settings to try next: Optuna for each learner, the same questions after a resume.

What each learner starts with comes first. After that the learner whose best model is ahead gets two runs of three, and
the others take turns with the third.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from tuneloop.relational.learner import Learner

STARTUP_TRIALS = 3
BLEND = "blend"
Outcome = Literal["done", "failed"]


@dataclass(frozen=True)
class Tried:
    """One finished run of a search.

    Attributes:
        number: its place in the search, from 0.
        learner: who learnt, or `blend`.
        params: with what settings.
        outcome: whether it came to a model.
        value: what the learner chooses its settings by.
        validation: the task's metric on the validation examples.
        metrics: others, by name.
        found: what `Run.found` says.
        suggested: the values that Optuna gave, and their distributions as JSON.
        seconds: how long it took.
        detail: why it failed.
        run_id: of whoever tracks it.
    """

    number: int
    learner: str
    params: Mapping[str, Any] = field(default_factory=dict)
    outcome: Outcome = "failed"
    value: float | None = None
    validation: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)
    suggested: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    seconds: float = 0.0
    detail: str | None = None
    run_id: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        suggested = {name: (value, kind) for name, (value, kind) in data["suggested"].items()}
        return cls(**{**data, "suggested": suggested})


@dataclass(frozen=True)
class Question:
    """What to try: a learner, its settings, and how Optuna came to them."""

    learner: str
    params: Mapping[str, Any]
    suggested: Mapping[str, tuple[Any, str]]


class Search:
    """The search of one task.

    Args:
        learners: by name.
        maximise: whether more of the task's metric is better.
        seed: of the whole search.
    """

    def __init__(self, learners: Mapping[str, Learner], *, maximise: bool, seed: int) -> None:
        self._learners = dict(learners)
        self._maximise = maximise
        self._seed = seed

    def ask(self, tried: Sequence[Tried]) -> Question:
        """What to try after runs that came to these."""
        name = self._next_learner(tried)
        learner = self._learners[name]
        earlier = [each for each in tried if each.learner == name]
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            seed=zlib.crc32(f"{self._seed}/{name}/{len(earlier)}".encode()),
        )
        study = optuna.create_study(direction="maximize" if self._maximise else "minimize", sampler=sampler)
        for each in earlier:
            study.add_trial(_frozen(each))
        starts = learner.starts()
        if len(earlier) < len(starts):
            study.enqueue_trial(starts[len(earlier)])
        trial = study.ask()
        params = learner.suggest(trial)
        kinds = trial.distributions
        suggested = {key: (value, distribution_to_json(kinds[key])) for key, value in trial.params.items()}
        return Question(name, params, suggested)

    def better(self, value: float | None, than: float | None) -> bool:
        """Whether a value of the metric beats another; anything beats none."""
        if value is None or than is None:
            return than is None and value is not None
        return value > than if self._maximise else value < than

    def champion(self, tried: Sequence[Tried], learner: str) -> Tried | None:
        """A learner's best run, by what it chooses its settings by; the earlier one of equals."""
        best: Tried | None = None
        for each in tried:
            mine = each.learner == learner and each.outcome == "done"
            if mine and (best is None or self.better(each.value, best.value)):
                best = each
        return best

    def best(self, tried: Sequence[Tried]) -> Tried | None:
        """The blend, where one came to a model; else of each learner's best the one with the best validation metric.

        That of a single run is the larger for having been chosen by it; a blend's weights say how much to trust each.
        """
        best: Tried | None = None
        for name in dict.fromkeys(each.learner for each in tried):
            champion = self.champion(tried, name)
            if champion is not None and name == BLEND:
                return champion
            if champion is not None and (best is None or self.better(champion.validation, best.validation)):
                best = champion
        return best

    def _next_learner(self, tried: Sequence[Tried]) -> str:
        runs = [each for each in tried if each.learner in self._learners]
        counts = {name: sum(each.learner == name for each in runs) for name in self._learners}
        new = [name for name, count in counts.items() if not count]
        if new:
            return new[0]
        ahead = self.best(runs)
        others = [name for name in self._learners if ahead is None or name != ahead.learner]
        if ahead is not None and (not others or len(runs) % 3 != 2):
            return ahead.learner
        return min(others, key=lambda name: counts[name])


def _frozen(each: Tried) -> FrozenTrial:
    done = each.outcome == "done"
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE if done else TrialState.FAIL,
        value=each.value if done else None,
        params={name: value for name, (value, _) in each.suggested.items()},
        distributions={name: json_to_distribution(kind) for name, (_, kind) in each.suggested.items()},
    )
