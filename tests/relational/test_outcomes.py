"""Predictions learn from how earlier ones of the same entity turned out."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.relational import CandidateKey, Dataset, ForeignKey, NodeTask, Table
from tuneloop.relational.examples import Examples
from tuneloop.relational.learner import Fitted, Silent
from tuneloop.relational.metrics import measure
from tuneloop.relational.model import Part, TableModel
from tuneloop.relational.outcomes import (
    HALF_LIVES,
    MOST,
    RECENT,
    STRENGTHS,
    Correction,
    Line,
    can_be_corrected,
    choose_correction,
    corrected_splits,
    outcomes,
)

DAY = np.timedelta64(1, "D")
START = np.datetime64("2020-01-01", "us")


def task(task_type: str = "regression", **more: object) -> NodeTask:
    key = ForeignKey("id", link_to="people.id")
    source = {"train": "train.parquet", "validation": "validation.parquet"}
    asked = {"time_column": "time", "label_column": "label", "horizon": timedelta(days=7)} | more
    return NodeTask("label", task_type=task_type, target_entity=key, source=source, **asked)  # type: ignore[arg-type]


def examples(keys: np.ndarray, days: np.ndarray, labels: np.ndarray | None = None) -> Examples:
    times = START + days.astype(int) * DAY
    known = None if labels is None else pa.chunked_array([pa.array(labels)])
    return Examples(pa.chunked_array([pa.array(keys)]), times, times.copy(), known)


def people(task_type: str, effect: float, *, weeks: int = 30, seed: int = 0) -> tuple[Examples, np.ndarray]:
    """Forty people, week by week, and what a model says of them that does not know the effect of each."""
    rng = np.random.default_rng(seed)
    keys, days = np.tile(np.arange(40), weeks), np.repeat(7 * np.arange(weeks), 40)
    known, own = rng.normal(size=len(keys)), effect * rng.normal(size=40)[keys]
    if task_type == "regression":
        return examples(keys, days, known + own + rng.normal(size=len(keys))), known
    chance = 1 / (1 + np.exp(-known))
    return examples(keys, days, rng.random(len(keys)) < 1 / (1 + np.exp(-known - own))), chance


@pytest.mark.parametrize(("task_type", "metric"), [("regression", "mae"), ("binary_classification", "roc_auc")])
def test_what_a_model_misses_of_somebody_is_found(task_type: str, metric: str) -> None:
    asked = task(task_type, evaluation_metric=metric)
    held, predictions = people(task_type, effect=1.5)
    found = choose_correction(asked, [(held, predictions)])
    assert found is not None
    better = found.corrected(asked, held, predictions, held, predictions, found.outcomes(asked, held, held))
    labels = np.asarray(held.labels.to_numpy(), float)  # type: ignore[union-attr]
    before, after = measure(metric, labels, predictions), measure(metric, labels, better)
    assert after < 0.8 * before if metric == "mae" else after > before + 0.08
    if task_type == "binary_classification":
        assert (better > 0).all() and (better < 1).all()


def test_nothing_is_corrected_where_nothing_can_be_known() -> None:
    asked = task()
    held, predictions = people("regression", effect=1.5, weeks=1)
    assert choose_correction(asked, [(held, predictions)]) is None
    assert not can_be_corrected(task(horizon=None))
    assert not can_be_corrected(task("multiclass_classification"))
    assert can_be_corrected(asked)


def test_earlier_splits_decide_as_well() -> None:
    helped, flat = people("regression", effect=0.7), people("regression", effect=0.0)
    turning = flat[0].labels.to_numpy() + 6 * (-1.0) ** (np.arange(len(flat[1])) // 40)  # type: ignore[union-attr]
    opposite = replace(flat[0], labels=pa.chunked_array([turning])), flat[1]  # errors that turn every week
    assert choose_correction(task(), [helped]) is not None
    assert choose_correction(task(), [opposite]) is None
    assert choose_correction(task(), [helped, opposite, opposite, opposite]) is None
    nothing = replace(flat[0], labels=pa.chunked_array([flat[1]])), flat[1]  # nothing was missed
    assert choose_correction(task(), [nothing, helped]) is not None
    assert choose_correction(task(), [nothing, opposite]) is None
    assert choose_correction(task(), [opposite, helped, helped, helped]) is None  # the latest decides most


@settings(max_examples=15, deadline=None)
@given(effect=st.floats(0, 1.5), seed=st.integers(0, 5), metric=st.sampled_from(["roc_auc", "accuracy"]))
def test_of_probabilities_the_likelihood_decides(effect: float, seed: int, metric: str) -> None:
    asked = task("binary_classification", evaluation_metric=metric)
    held, predictions = people("binary_classification", effect, weeks=8, seed=seed)
    true = held.labels.to_numpy()  # type: ignore[union-attr]

    def loss(correction: Correction | None) -> float:
        [found] = corrected_splits(asked, [(held, predictions)], correction)
        return float(-np.log(np.where(true, found, 1 - found)).mean())

    spread = float((predictions * (1 - predictions)).mean())
    every = [None, *(Correction(half_life, each * spread) for half_life in HALF_LIVES for each in STRENGTHS)]
    assert loss(choose_correction(asked, [(held, predictions)])) == pytest.approx(min(map(loss, every)))


rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.floats(-2, 2)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(
    asked=rows.filter(len),
    known=rows,
    since=st.integers(-1, 30),
    half_life=st.sampled_from([1, 2, 4]),
    together=st.booleans(),
)
def test_a_correction_is_what_a_plain_loop_gives(
    asked: list[tuple[int, int, float]],
    known: list[tuple[int, int, float]],
    since: int,
    half_life: int,
    together: bool,
) -> None:
    common = Line(1.0, 1.0, 4.0) if together else None
    correction = Correction(half_life, 3.0, START + since * DAY, common)
    keys, days, values = map(np.array, zip(*asked, strict=True))
    other_keys, other_days, labels = (np.array(each) for each in (zip(*known, strict=True) if known else ([], [], [])))
    labelled = examples(other_keys.astype(int), other_days, labels.astype(float))
    predicted = 0.1 * other_days.astype(float)
    wanted = examples(keys, days)
    looked_at = correction.outcomes(task(), wanted, labelled)
    found = correction.corrected(task(), wanted, values, labelled, predicted, looked_at)
    for row, (key, day, value) in enumerate(asked):
        turned_out = [at for at, (_, d, _) in enumerate(known) if since < d and d + 7 <= day]
        turned_out.sort(key=lambda at: (known[at][1], at))
        weights = np.array([0.5 ** ((day - known[at][1]) / 7 / half_life) for at in turned_out])
        errors = np.array([known[at][2] - predicted[at] for at in turned_out])
        expected = value
        if together:  # ridge regression as least squares with two more rows
            root = np.sqrt(np.append(weights, [4.0, 4.0]))
            sides = np.array([[1, predicted[at] - 1] for at in turned_out] + [[1, 0], [0, 1]], float)
            line = np.linalg.lstsq(sides * root[:, None], np.append(errors, [0, 0]) * root, rcond=None)[0]
            expected += line @ [1, value - 1]
            errors = errors - sides[:-2] @ line
        mine = np.array([known[at][0] == key for at in turned_out], bool)
        last_weights, last_errors = weights[mine][-MOST:], errors[mine][-MOST:]
        expected += (last_weights * last_errors).sum() / (last_weights.sum() + 3.0)
        assert found[row] == pytest.approx(expected, abs=1e-9)


def test_the_last_outcomes_of_an_entity_are_looked_at() -> None:
    days = np.arange(MOST + 3)
    labelled = examples(np.zeros(len(days), int), days, days.astype(float))
    asked = examples(np.array([0]), np.array([60]))
    found = outcomes(task(), asked, labelled)
    np.testing.assert_array_equal(found.outcome, days[-MOST:])


def test_the_last_outcomes_of_everybody_are_looked_at() -> None:
    days = np.arange(RECENT + 10)
    labelled = examples(days, days, days.astype(float))
    asked = examples(np.array([-1, -1, -1]), np.array([20, RECENT + 16, 1]))
    found = outcomes(task(), asked, labelled, everybody=True)
    np.testing.assert_array_equal(found.rows, days)
    seen = [found.everybody[first:end] for first, end in zip(found.first, found.end, strict=True)]
    for rows, expected in zip(seen, (days[:14], days[10:], days[:0]), strict=True):
        np.testing.assert_array_equal(rows, expected)
    late = outcomes(task(), asked.take(np.array([1])), labelled, everybody=True)
    np.testing.assert_array_equal(late.rows, days[10:])
    np.testing.assert_array_equal(late.among(late.rows).everybody, np.arange(RECENT))


def test_a_world_that_moves_is_followed() -> None:
    held, predictions = people("regression", effect=0.0)
    labels = held.labels.to_numpy()  # type: ignore[union-attr]
    moved = examples(np.arange(len(labels)), (held.times - START) / DAY, 5 + 2 * labels)  # everybody is new
    found = choose_correction(task(), [(moved, predictions)])
    assert found is not None and found.common is not None
    better = found.corrected(task(), moved, predictions, moved, predictions, found.outcomes(task(), moved, moved))
    late = (moved.times - START) / DAY > 70
    before, after = (np.abs(5 + 2 * labels - each)[late].mean() for each in (predictions, better))
    assert after < 0.4 * before


class Says(Fitted):
    """A learner that predicts the day, and notes for whom."""

    learner = "says"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def predict(self, dataset, data, examples, labelled, watcher) -> np.ndarray:  # type: ignore[no-untyped-def]
        self.asked.append(len(examples))
        return (examples.times - START) / DAY

    def save(self, folder: Path) -> None:
        """Holds nothing."""

    @classmethod
    def load(cls, folder: Path) -> "Says":
        return cls()


def test_a_model_looks_at_what_it_was_not_fitted_on_and_at_no_more() -> None:
    dataset = Dataset("d", tables=[Table("people", source="p", candidate_keys=[CandidateKey("id")])], task=task())
    fitted = Says()
    model = TableModel(dataset, [Part(fitted)], correction=Correction(2, 1.0, START + 10 * DAY))
    days = np.array([10, 20, 28, 29, 20])
    labelled = examples(np.array([1, 1, 1, 1, 2], np.int32), days, days + 8.0)
    asked = examples(np.array([1, 3]), np.array([35, 35]))
    found = model.predict_examples(dataset, {}, asked, labelled, Silent())  # type: ignore[arg-type]
    weights = 0.5 ** (np.array([15, 7]) / 14)  # of days 20 and 28: day 10 was learnt from, day 29 is not known yet
    np.testing.assert_allclose(found, [35 + 8 * weights.sum() / (weights.sum() + 1), 35])  # type: ignore[arg-type]
    assert fitted.asked == [4]  # two asked for and two outcomes, at once
    alone = model.predict_examples(dataset, {}, asked.take(np.array([0])), labelled, Silent())  # type: ignore[arg-type]
    np.testing.assert_array_equal(alone, np.asarray(found)[:1])  # type: ignore[arg-type]


def test_a_model_follows_everybody_where_it_was_chosen_to() -> None:
    dataset = Dataset("d", tables=[Table("people", source="p", candidate_keys=[CandidateKey("id")])], task=task())
    labelled = examples(np.array([1, 2, 3], np.int32), np.array([10, 20, 33]), np.array([18.0, 28.0, 90.0]))
    asked = examples(np.array([4, 5]), np.array([34, 26]))
    fitted = Says()
    correction = Correction(1e9, 1.0, START, Line(0.0, 1e9, 2.0))
    model = TableModel(dataset, [Part(fitted)], correction=correction)
    found = model.predict_examples(dataset, {}, asked, labelled, Silent())  # type: ignore[arg-type]
    np.testing.assert_allclose(found, [34 + 16 / 4, 26 + 8 / 3])  # type: ignore[arg-type]
    assert fitted.asked == [4]  # day 33 is not known to either


def test_a_stored_model_keeps_its_correction(tmp_path: Path) -> None:
    dataset = Dataset("d", tables=[Table("people", source="p", candidate_keys=[CandidateKey("id")])], task=task())
    for number, correction in enumerate([None, Correction(2, 1.5, START), Correction(4, 0.25, None, Line(1.0, 2.0))]):
        TableModel(dataset, (), correction=correction).save(tmp_path / str(number))
        assert TableModel.load(tmp_path / str(number)).correction == correction
