import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.clicks import simulate
from support.models import made_up_items, made_up_sessions, write_snapshot
from tuneloop.search.data import make_training_data
from tuneloop.search.metrics import click_weights
from tuneloop.search.propensity import DEFAULT_EXPONENT, MAX_STANDARD_ERROR, Propensity, estimate
from tuneloop.search.sessions import read_log
from tuneloop.search.split import is_held_out

EXPONENTS = [0.0, 0.25, 0.5, 1.0]
DATA = Path(__file__).parents[3] / "shared" / "data" / "rare-diseases"


def unknown(sessions):
    return np.full(len(sessions.result), np.nan)


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("relevance", ["smooth", "few"])
@pytest.mark.parametrize("queries", [None, 300])
def test_a_known_bias_is_found_again(exponent, relevance, queries):
    found = [estimate(*simulate(exponent, seed=seed, relevance=relevance, queries=queries)) for seed in range(3)]
    assert {each.source for each in found} == {"estimated"}
    tolerance = 0.05 if queries else 0.1
    assert np.mean([each.exponent for each in found]) == pytest.approx(exponent, abs=tolerance)
    for each in found:
        assert each.exponent == pytest.approx(exponent, abs=max(4 * each.standard_error, 0.03))


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_rankings_that_differ_are_enough_where_no_score_is_known(exponent):
    sessions, _ = simulate(exponent, queries=300)
    found = estimate(sessions, unknown(sessions))
    assert found.source == "estimated" and found.exponent == pytest.approx(exponent, abs=0.05)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_scores_are_enough_where_each_query_has_one_ranking(exponent):
    sessions, score = simulate(exponent, queries=1500, reranked=False)
    found = estimate(sessions, score)
    assert found.source == "estimated" and found.exponent == pytest.approx(exponent, abs=0.15)


def test_a_distance_ranks_as_a_similarity_does():
    sessions, score = simulate(0.5)
    assert estimate(sessions, 1 - score) == estimate(sessions, score)


def test_of_equal_scores_something_else_may_have_decided():
    sessions, score = simulate(0.25, relevance="few")
    pairs = np.flatnonzero((sessions.position % 2 == 1) & (np.random.default_rng(0).random(len(score)) < 0.2))
    score[pairs + 1] = score[pairs]  # the more relevant one still tends to stand first
    found = estimate(sessions, score)
    assert found.source == "estimated" and found.exponent == pytest.approx(0.25, abs=0.15)


def test_the_same_log_and_seed_give_the_same_estimate():
    log = simulate(0.5, queries=300)
    assert estimate(*log, seed=1) == estimate(*log, seed=1) != estimate(*log, seed=2)


def few_clicks():
    return simulate(0.25, sessions=200)


def one_result():
    return simulate(0.25, shown=1)


def one_ranking_of_each_query_and_no_score():
    sessions, _ = simulate(0.25)
    return sessions, unknown(sessions)


def no_click():
    sessions, score = simulate(0.25)
    return replace(sessions, clicked=np.zeros_like(sessions.clicked)), score


def nothing():
    sessions, score = simulate(0.25)
    return sessions.select(np.zeros(0, np.int64)), score[:0]


def score_that_is_the_position():
    sessions, _ = simulate(0.25)
    return sessions, 1 / sessions.position


def score_that_falls_by_the_same_step():
    """Also in lists of different lengths."""
    sessions, _ = simulate(0.25)
    length = np.random.default_rng(0).integers(2, 13, len(sessions))[sessions.session]
    kept = sessions.position <= length
    return sessions.keep(kept), (1 - sessions.position / length)[kept]


def score_of_all_alike():
    sessions, score = simulate(0.25)
    return sessions, np.ones_like(score)


def coarse_score():
    sessions, score = simulate(0.25, relevance="few")
    return sessions, np.round(score)


def rankings_by_something_else():
    sessions, score = simulate(0.25)
    return sessions, np.random.default_rng(0).permutation(score)


def few_queries():
    return simulate(0.25, queries=10)


@pytest.mark.parametrize(
    "log",
    [
        few_clicks,
        one_result,
        one_ranking_of_each_query_and_no_score,
        no_click,
        nothing,
        score_that_is_the_position,
        score_that_falls_by_the_same_step,
        score_of_all_alike,
        coarse_score,
        rankings_by_something_else,
        few_queries,
    ],
)
def test_a_log_that_does_not_tell_gives_the_default_and_says_so(log):
    found = estimate(*log())
    assert found == Propensity(DEFAULT_EXPONENT, "default", None)
    assert found.counts == {"propensity_exponent": 0.5, "propensity_source": "default"}


# -- from a log in the database's form


def as_records(sessions, score):
    """Sessions in the import format, and items."""
    ids = [f"o{row}" for row in range(int(sessions.result.max()) + 1)]
    records = []
    for number, (start, end) in enumerate(zip(sessions.starts[:-1], sessions.starts[1:], strict=True)):
        shown = [
            {"object_id": ids[row], "rank": float(value)}
            for row, value in zip(sessions.result[start:end], score[start:end], strict=True)
        ]
        clicked = [ids[row] for row in sessions.result[start:end][sessions.clicked[start:end]]]
        records.append(
            {
                "session_id": str(number),
                "search_query": f"query {sessions.query[number]}",
                "search_results": shown,
                "events": [{"object_id": each} for each in clicked],
            }
        )
    return records, [{"object_id": each, "text": each} for each in ids]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    records, items = as_records(*simulate(0.8, queries=100, sessions=3000))
    snapshot = write_snapshot(tmp_path_factory.mktemp("biased"), records, items)
    return read_log(snapshot.sessions(), snapshot.items())


def test_the_estimate_is_part_of_the_training_data_and_its_counts(log):
    data = make_training_data(log)
    assert data.propensity.source == "estimated"
    assert data.propensity.exponent == pytest.approx(0.8, abs=0.1)
    assert data.counts["propensity_source"] == "estimated"
    assert data.counts["propensity_exponent"] == data.propensity.exponent
    assert data.counts["propensity_standard_error"] < MAX_STANDARD_ERROR


def test_held_out_sessions_are_not_estimated_from(log):
    held_out = np.array([is_held_out(query) for query in log.queries])[log.sessions.query][log.sessions.session]
    without = replace(log, sessions=replace(log.sessions, clicked=log.sessions.clicked & ~held_out))
    assert make_training_data(without).propensity == make_training_data(log).propensity


@pytest.mark.parametrize("given", [0.0, 0.3, 2.0])
def test_a_given_exponent_is_used_as_it_is(log, given):
    data = make_training_data(log, propensity_exponent=given)
    assert data.propensity == Propensity(given, "set")
    assert (data.counts["propensity_exponent"], data.counts["propensity_source"]) == (given, "set")


def test_the_score_of_a_result_is_read_and_may_be_missing(tmp_path):
    records = made_up_sessions(20)
    records[0]["search_results"][1]["rank"] = None
    snapshot = write_snapshot(tmp_path, records, made_up_items())
    score = read_log(snapshot.sessions(), snapshot.items()).score
    np.testing.assert_allclose(score[:3], [1.0, np.nan, 0.9])


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data/rare-diseases is not there")
def test_on_real_texts_the_estimate_is_near_what_the_clicks_were_made_with(tmp_path):
    with gzip.open(DATA / "sessions.jsonl.gz", "rt", encoding="utf-8") as stream:
        sessions = [json.loads(line) for line in stream]
    ids = sorted({result["object_id"] for each in sessions for result in each["search_results"]})
    snapshot = write_snapshot(tmp_path, sessions, [{"object_id": each, "text": each} for each in ids])
    found = make_training_data(read_log(snapshot.sessions(), snapshot.items())).propensity
    assert found.source == "estimated"
    assert found.exponent == pytest.approx(0.25, abs=0.1)


def test_weights_follow_the_exponent():
    np.testing.assert_allclose(click_weights(np.array([1, 16, 10**6]), exponent=0.25), [1, 2, 10])
