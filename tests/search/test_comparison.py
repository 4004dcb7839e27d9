import numpy as np
import pytest

from tuneloop.search import metrics
from tuneloop.search.comparison import compare, most_changed, verdict
from tuneloop.search.intervals import Interval
from tuneloop.search.sessions import Sessions

RESULTS = 4


def held_out(clicked, queries=None):
    """Sessions of four results each, one of them clicked; the result at row r is text 100 + r."""
    count = len(clicked)
    chosen = np.zeros((count, RESULTS), bool)
    chosen[np.arange(count), clicked] = True
    return Sessions(
        np.arange(count) if queries is None else np.asarray(queries),
        np.zeros(count, bool),
        np.arange(count + 1) * RESULTS,
        100 + np.arange(count * RESULTS),
        chosen.ravel(),
        np.tile(np.arange(1, RESULTS + 1), count),
    )


def compared(sessions, before, after):
    before, after = (np.asarray(each, float).ravel() for each in (before, after))
    gains = sessions.clicked * 1.0

    def values(scores):
        return {
            "ndcg_at_10": metrics.ndcg(scores, gains, sessions.starts),
            "mrr": metrics.reciprocal_rank(scores, gains, sessions.starts),
            "recall_at_10": metrics.recall(scores, gains, sessions.starts),
            "irrelevant_dist_shift": np.full(len(sessions), np.nan),
        }

    return compare(sessions, (before, after), (values(before), values(after)), seed=1)


DOWN = [4.0, 3.0, 2.0, 1.0]


def test_a_model_that_ranks_alike_makes_no_clear_difference():
    sessions = held_out([0, 1, 2, 3] * 10)
    found = compared(sessions, [DOWN] * 40, [[8.0, 6.0, 4.0, 2.0]] * 40)
    assert found.gain["ndcg_at_10"] == Interval(0.0, 0.0, 0.0)
    assert found.verdict == ("no clear difference: 0.000, 95 % interval 0.000 to 0.000, on 40 held-out searches")
    assert most_changed(found, 20) == ([], [])


def test_a_model_that_ranks_better_is_better_on_as_many_searches_as_there_are():
    sessions = held_out([3, 2] * 15)
    found = compared(sessions, [DOWN] * 30, [[1.0, 2.0, 3.0, 4.0]] * 30)
    gain = found.end["ndcg_at_10"].value - found.start["ndcg_at_10"].value
    assert found.gain["ndcg_at_10"].value == pytest.approx(gain)
    assert found.searches == 30
    assert found.verdict.startswith(f"better by {gain:.3f}, 95 % interval 0.")
    assert found.verdict.endswith("on 30 held-out searches")
    tracked = found.tracked
    assert tracked["test_ndcg_at_10_gain"] == pytest.approx(gain)
    assert tracked["test_mrr_low"] <= found.end["mrr"].value <= tracked["test_mrr_high"]
    assert tracked["test_mrr_gain_low"] <= tracked["test_mrr_gain"] <= tracked["test_mrr_gain_high"]
    assert not [name for name in tracked if "irrelevant" in name]  # nothing to measure it on


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (Interval(0.031, 0.018, 0.044), "better by 0.031, 95 % interval 0.018 to 0.044, on 812 held-out searches"),
        (Interval(0.004, -0.01, 0.018), "no clear difference: 0.004, 95 % interval −0.010 to 0.018, on 812 held"),
        (Interval(-0.2, -0.3, -0.1), "worse by 0.200, 95 % interval −0.300 to −0.100, on 812 held-out searches"),
        (Interval(0.01, 0.0003, 0.02), "no clear difference: 0.010, 95 % interval 0.000 to 0.020"),  # as it reads
        (Interval(-0.0001, -0.0002, 0.0), "no clear difference: 0.000, 95 % interval 0.000 to 0.000"),
        (None, "no clear difference: too few distinct queries for an interval, on 812 held-out searches"),
    ],
)
def test_the_verdict_says_what_the_interval_holds(interval, words):
    assert verdict(interval, 812).startswith(words)


def test_those_that_changed_most_come_first_with_both_orders():
    clicked = [3, 0, 3, 2]
    before = [DOWN] * 4
    after = [[1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 1, 2], DOWN]
    gained, lost = most_changed(compared(held_out(clicked), before, after), 20)
    assert [search.query for search in gained] == [0, 2]
    assert [search.query for search in lost] == [1]
    best = gained[0]
    assert best.gain == pytest.approx(1 - 1 / np.log2(5))
    assert [result.row for result in best.before] == [100, 101, 102, 103]
    assert [result.row for result in best.after] == [103, 102, 101, 100]
    assert [(result.rank, result.other_rank) for result in best.after] == [(1, 4), (2, 3), (3, 2), (4, 1)]
    assert [result.clicked for result in best.after] == [True, False, False, False]
    assert best.after[0].position == 4
    assert len(most_changed(compared(held_out(clicked), before, after), 1)[0]) == 1


def test_of_a_query_the_session_that_changed_most_is_shown():
    sessions = held_out([3, 1, 3], queries=[5, 5, 6])
    gained, _ = most_changed(compared(sessions, [DOWN] * 3, [[1, 2, 3, 4]] * 3), 20)
    assert [(search.query, search.alike) for search in gained] == [(5, 2), (6, 1)]
    assert gained[0].after[0].clicked  # the first of the two
