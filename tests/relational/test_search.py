"""Which learner and settings are tried next."""

from dataclasses import replace
from typing import Any

import optuna
import pytest

from tuneloop.relational.search import BLEND, Question, Search, Tried


class Fixed:
    """A learner with one setting, that starts with two values of it, of which only the search's side is looked at."""

    def __init__(self, default: float) -> None:
        self.default = default

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 0, 1)}

    def starts(self) -> list[dict[str, Any]]:
        return [{"x": self.default}, {"x": self.default / 2}]


def search(seed: int = 0, *, maximise: bool = True) -> Search:
    learners: Any = {"boosted": Fixed(0.25), "gnn": Fixed(0.75)}
    return Search(learners, maximise=maximise, seed=seed)


def came_to(question: Question, number: int, value: float) -> Tried:
    return Tried(
        number, question.learner, question.params, "done", value=value, validation=value, suggested=question.suggested
    )


def play(asked: Search, runs: int, value: Any) -> list[Tried]:
    tried: list[Tried] = []
    for number in range(runs):
        question = asked.ask(tried)
        tried.append(came_to(question, number, value(question)))
    return tried


def test_what_each_learner_starts_with_comes_first_and_the_better_one_gets_most_runs() -> None:
    tried = play(search(), 12, lambda question: 0.9 if question.learner == "gnn" else 0.5)
    assert [(each.learner, dict(each.params)) for each in tried[:2]] == [("boosted", {"x": 0.25}), ("gnn", {"x": 0.75})]
    for name, starts in (("boosted", [0.25, 0.125]), ("gnn", [0.75, 0.375])):
        assert [each.params["x"] for each in tried if each.learner == name][:2] == starts
    assert sum(each.learner == "gnn" for each in tried[2:]) > sum(each.learner == "boosted" for each in tried[2:]) > 0


def test_a_resumed_search_asks_what_it_would_have_asked() -> None:
    tried = play(search(), 9, lambda question: question.params["x"])
    again = [Tried.from_json(each.to_json()) for each in tried[:5]]
    for number in range(5, 9):
        question = search().ask(again)
        assert (question.learner, question.params) == (tried[number].learner, tried[number].params)
        again.append(came_to(question, number, question.params["x"]))
    assert search(seed=1).ask(tried[:5]).params != tried[5].params


@pytest.mark.parametrize("maximise", [True, False])
def test_the_best_run_is_the_best_learners_champion_on_validation(maximise: bool) -> None:
    sign = 1 if maximise else -1
    tried = [
        Tried(0, "boosted", outcome="done", value=sign * 3.0, validation=sign * 5.0),
        Tried(1, "boosted", outcome="done", value=sign * 4.0, validation=sign * 1.0),
        Tried(2, "gnn", outcome="done", value=sign * 0.1, validation=sign * 2.0),
        Tried(3, "gnn", outcome="failed"),
    ]
    asked = search(maximise=maximise)
    assert asked.champion(tried, "boosted") == tried[1]
    assert asked.best(tried) == tried[2]
    assert asked.best([replace(each, outcome="failed") for each in tried]) is None
    # The best of some runs looks better than it is; what is blended was not chosen by its value.
    blend = Tried(4, BLEND, outcome="done", value=sign * 1.0, validation=sign * 1.0)
    assert asked.best([*tried, blend]) == blend
    assert asked.best([*tried, replace(blend, outcome="failed")]) == tried[2]
