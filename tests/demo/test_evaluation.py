"""The demo's own judgement: right where the answer can be worked out by hand."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from tuneloop.demo import results
from tuneloop.demo.evaluation import Evaluation
from tuneloop.demo.journey import Outcome
from tuneloop.demo.searches import HeldOutQuery, Query


def held_out(*relevance):
    return tuple(HeldOutQuery(f"held-{n}", Query("x", ("x",), n), grades) for n, grades in enumerate(relevance))


def test_ranking_metrics_by_hand():
    evaluation = Evaluation(held_out({"a": 2, "b": 1}, {"c": 2}), ("a", "b", "c", "d"))
    scores = evaluation.scores(np.array([[0.2, 0.9, 0.1, 0.0], [0.4, 0.3, 0.2, 0.1]], np.float32))
    discount = 1 / np.log2(np.arange(2, 6))
    assert scores.ndcg == pytest.approx(
        [(discount[0] + 3 * discount[1]) / (3 * discount[0] + discount[1]), discount[2]]
    )
    assert scores.mrr == pytest.approx([1 / 2, 1 / 3])  # of the article that has all that was asked for
    assert scores.order[0].tolist() == [1, 0, 2, 3]


def test_distance_shift_is_read_against_the_background():
    evaluation = Evaluation(held_out({"a": 2}, {"c": 2, "b": 1}), ("a", "b", "c", "d"))
    before = np.array([[0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4]])
    assert evaluation.distance_shift(before + 0.3, before) == pytest.approx([0, 0])  # all of it moved: nothing learned
    after = before.copy()
    after[0, 0] += 0.4
    assert evaluation.distance_shift(after, before) == pytest.approx([0.4 - 0.1, 0])


@pytest.mark.parametrize("width", [80, 100])
def test_the_result_can_be_read(shop, width):
    evaluation = Evaluation(shop.held_out, tuple(article.object_id for article in shop.articles))
    rng = np.random.default_rng(0)
    before = rng.normal(size=evaluation.grades.shape)
    after = before + evaluation.grades
    outcome = Outcome(evaluation.scores(before), evaluation.scores(after), evaluation.distance_shift(after, before))
    assert outcome.is_better
    journey = SimpleNamespace(shop=shop, evaluation=evaluation)
    console = Console(file=io.StringIO(), width=width)
    console.print(results.metrics_table(journey, outcome, "1", "2"))
    for example in results.examples(journey, outcome):
        console.print(example)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert all(word in text for word in ("nDCG@10", "MRR", "distance shift", "shop/1", "shop/2"))
    assert text.count("before  nDCG@10") == text.count("after  nDCG@10") == 3
    assert not Outcome(evaluation.scores(after), evaluation.scores(before), -outcome.shift).is_better
