"""How runs are judged, and how much each of two learners counts where they predict together."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from tuneloop.relational import CandidateKey, Dataset, ForeignKey, LinkTask, NodeTask, Table
from tuneloop.relational.examples import Examples
from tuneloop.relational.fitter import Fitter, parts_of
from tuneloop.relational.learner import Folds, Links, Predictions, Run, Silent
from tuneloop.relational.search import BLEND, Question, Tried

NAMES = "one", "other"


class Said:
    """A learner whose validation predictions are given."""

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions

    def prepare(self, watcher: Silent) -> None:
        """Knows already."""

    def fit(self, params: object, *, seed: int, watcher: Silent) -> Run:
        return Run(None, 0.0, self._predictions, {})  # type: ignore[arg-type]


def blended(task: NodeTask | LinkTask, labels: pa.Array, predictions: list[Predictions]) -> list[float]:
    """The weights that two learners get."""
    count = len(labels)
    times = np.full(count, np.datetime64("2020-01-01", "us"))
    examples = Examples(pa.chunked_array([pa.array(range(count))]), times, times, pa.chunked_array([labels]))
    people = Table("people", source="people.parquet", candidate_keys=[CandidateKey("id")])
    dataset = Dataset("made up", tables=[people], task=task)
    learners = {name: Said(each) for name, each in zip(NAMES, predictions, strict=True)}
    fitter = Fitter(dataset, {}, Folds(examples, examples), learners, seed=0)  # type: ignore[arg-type]
    champions = [Tried(number, name, outcome="done") for number, name in enumerate(NAMES)]
    for each in champions:
        fitter.fit(each.number, Question(each.learner, {}, {}), Silent())
    weights, found = fitter.blend(champions, Silent())
    if not isinstance(found, Links):
        np.testing.assert_allclose(found, weights[0] * predictions[0] + weights[1] * predictions[1])
    assert sum(weights) == pytest.approx(1)
    return weights


def node(task_type: str, metric: str) -> NodeTask:
    key = ForeignKey("id", link_to="people.id")
    return NodeTask(
        "label",
        task_type=task_type,
        time_column="time",
        label_column="label",
        target_entity=key,
        source={"train": "train.parquet", "validation": "validation.parquet"},
        evaluation_metric=metric,
    )


def two_guesses(count: int, noise: tuple[float, float]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Numbers, and what two know of them, each with errors of its own."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=count)
    return truth, [truth + size * rng.normal(size=count) for size in noise]


@pytest.mark.parametrize("metric", ["mae", "r2"])
def test_who_knows_more_counts_more(metric: str) -> None:
    truth, guesses = two_guesses(3000, (0.5, 1.0))
    weights = blended(node("regression", metric), pa.array(truth), list(guesses))
    assert weights[0] == pytest.approx(0.8, abs=0.05)  # by the inverse of the variances
    assert blended(node("regression", metric), pa.array(truth), list(guesses[::-1])) == pytest.approx(weights[::-1])


def test_few_examples_decide_little() -> None:
    shares = {}
    for count in (40, 4000):
        truth, guesses = two_guesses(count, (1.5, 1.5))
        labels = truth > 0.5
        shares[count] = blended(node("binary_classification", "roc_auc"), pa.array(labels), list(guesses))[0]
    assert 0.2 < shares[40] < 0.8 and shares[4000] == pytest.approx(0.5, abs=0.1)


def test_who_knows_nothing_does_not_count_and_stays_for_its_embeddings() -> None:
    truth, _ = two_guesses(2000, (1, 1))
    weights = blended(node("regression", "mae"), pa.array(truth), [truth, np.full(len(truth), 50.0)])
    assert weights == [1.0, 0.0]
    tried = [Tried(number, name, outcome="done") for number, name in enumerate(NAMES)]
    blend = Tried(2, BLEND, outcome="done", found={"runs": [0, 1], "weights": weights})
    assert parts_of(blend, [*tried, blend]) == [(tried[0], 1.0), (tried[1], 0.0)]


def test_a_run_is_judged_as_it_will_be_served() -> None:
    rng = np.random.default_rng(0)
    weeks, count = 30, 40
    truth, own = rng.normal(size=weeks * count), np.tile(rng.normal(size=count), weeks)
    times = np.datetime64("2020-01-01", "us") + np.repeat(7 * np.arange(weeks), count) * np.timedelta64(1, "D")
    keys, labels = (pa.chunked_array([pa.array(each)]) for each in (np.tile(np.arange(count), weeks), truth + own))
    examples = Examples(keys, times, times.copy(), labels)
    noise = rng.normal(size=len(truth))
    steady, noisy = Said(truth), Said(truth + own + noise)  # one misses the same of each person again and again
    values = {}
    for horizon in (None, timedelta(days=7)):
        task = replace(node("regression", "mae"), horizon=horizon)
        people = Table("people", source="people.parquet", candidate_keys=[CandidateKey("id")])
        dataset = Dataset("made up", tables=[people], task=task)
        learners = {"one": steady, "other": noisy}
        fitter = Fitter(dataset, {}, Folds(examples, examples), learners, seed=0)  # type: ignore[arg-type]
        values[horizon] = [fitter.fit(at, Question(name, {}, {}), Silent()).value for at, name in enumerate(NAMES)]
    assert values[None] == [0.0, 0.0]  # as the learners say: nothing becomes known
    one, other = values[timedelta(days=7)]
    assert one < 0.7 * other < other < np.abs(noise).mean() < np.abs(own).mean()


def test_links_are_blended_by_what_examples_were_linked_to() -> None:
    key = ForeignKey("id", link_to="people.id")
    task = LinkTask(
        "next",
        task_type="link_prediction",
        time_column="time",
        source_entity=key,
        target_entity=ForeignKey("friends", link_to="people.id"),
        source={"train": "train.parquet", "validation": "validation.parquet"},
        evaluation_metric="map_at_2",
        horizon=timedelta(days=7),
    )
    count = 200
    labels = pa.array([[row] if row % 3 else [] for row in range(count)], pa.list_(pa.int64()))
    right = np.repeat(np.arange(count), 2) + np.tile([0, 1], count)
    scores = np.tile([2.0, 1.0], (count, 1))
    guesses: list[Predictions] = [Links(pa.array(right), scores), Links(pa.array(right + 1), scores)]
    weights = blended(task, labels, guesses)
    assert weights[0] > 0.5 > weights[1]
