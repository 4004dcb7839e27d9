import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.models import made_up_items, made_up_sessions, write_snapshot
from tuneloop.methods.snapshot import ITEMS_SCHEMA, SESSIONS_SCHEMA
from tuneloop.search.data import Sampler, make_training_data
from tuneloop.search.sessions import Sessions, read_log
from tuneloop.search.split import is_held_out, normalize_query


def table(*sessions):
    """Sessions given as (query, shown ids, clicked ids, irrelevant)."""
    rows = [
        {
            "session_id": str(number),
            "search_query": query,
            "results": [{"object_id": each, "rank": None} for each in shown],
            "events": [{"object_id": each, "event_type": "click", "created_at": None} for each in clicked],
            "is_irrelevant": irrelevant,
            "created_at": None,
        }
        for number, (query, shown, clicked, irrelevant) in enumerate(sessions)
    ]
    return pa.Table.from_pylist(rows, SESSIONS_SCHEMA)


def items(*ids, text="text of {}"):
    return pa.Table.from_pylist([{"object_id": each, "text": text.format(each)} for each in ids], ITEMS_SCHEMA)


def queries(held_out, count):
    found = (f"query {number}" for number in range(10_000))
    return [query for query in found if is_held_out(query) == held_out][:count]


def test_sessions_that_teach_nothing_are_counted_and_left_out():
    a, b, c, d, e, f = queries(False, 6)
    log = read_log(
        table(
            (a, ["x", "y"], ["y"], False),
            (b, ["x", "y"], [], False),  # no click
            (c, ["gone", "lost"], ["gone"], False),  # no known item
            (d, ["x"], ["x"], False),  # one result
            (e, ["x", "y"], [], True),  # irrelevant
            (f, ["x", "gone"], ["gone"], False),  # the clicked item is not known
        ),
        items("x", "y"),
    )
    data = make_training_data(log)
    assert data.counts["sessions"] == 6
    assert data.counts["sessions_without_click"] == 1
    assert data.counts["sessions_without_known_items"] == 1
    assert data.counts["sessions_with_one_result"] == 1
    assert data.counts["sessions_irrelevant"] == 1
    assert data.counts["results_unknown"] == 3
    assert [data.texts[row] for row in data.train.query] == [a, d, e]


def test_a_held_out_session_with_one_result_does_not_judge():
    (query,) = queries(True, 1)
    data = make_training_data(read_log(table((query, ["x"], ["x"], False)), items("x")))
    assert (data.judged, len(data.train)) == (0, 0)


def test_nothing_at_all_is_no_error():
    data = make_training_data(read_log(table(), items()))
    assert (data.texts, data.judged, data.counts["sessions"]) == ([], 0, 0)


def test_items_with_the_same_text_are_one_row_and_empty_texts_are_unknown():
    (query,) = queries(False, 1)
    same = pa.concat_tables([items("x", "y", text="the same"), items("z", text="  ")])
    data = make_training_data(read_log(table((query, ["x", "y", "z"], ["x"], False)), same))
    assert data.texts == [query, "the same"]
    assert data.train.position.tolist() == [1, 2]


def test_only_the_chosen_event_types_count_as_clicks():
    (query,) = queries(False, 1)
    log = read_log(table((query, ["x", "y"], ["x"], False)), items("x", "y"), click_types=["purchase"])
    assert not log.sessions.clicked.any()


def test_results_keep_the_position_at_which_they_were_shown():
    (query,) = queries(False, 1)
    data = make_training_data(read_log(table((query, ["gone", "x", "y"], ["y"], False)), items("x", "y")))
    assert data.train.position.tolist() == [2, 3]
    assert data.train.clicked.tolist() == [False, True]


def test_a_query_never_stands_on_both_sides(tmp_path):
    sessions = [
        {**each, "search_query": each["search_query"].upper() if at % 2 else f"{each['search_query']} "}
        for at, each in enumerate(made_up_sessions(300) + made_up_sessions(300))
    ]
    snapshot = write_snapshot(tmp_path, sessions)
    data = make_training_data(read_log(snapshot.sessions(), snapshot.items()))
    train, held_out = ({normalize_query(data.texts[row]) for row in part.query} for part in (data.train, data.held_out))
    assert train and held_out and not train & held_out


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    snapshot = write_snapshot(tmp_path_factory.mktemp("snapshot"), made_up_sessions(200), made_up_items())
    return make_training_data(read_log(snapshot.sessions(), snapshot.items())).train


@given(st.integers(1, 70), st.floats(0, 1), st.booleans(), st.integers(0, 100))
def test_an_epoch_holds_every_session_once_and_its_pairs_are_those_of_the_log(
    train, batch_size, share, irrelevant, seed
):
    sampler = Sampler(train, batch_size=batch_size, negative_share=share, irrelevant=irrelevant)
    batches = list(sampler.epoch(np.random.default_rng(seed)))
    assert len(batches) == len(sampler)
    assert sum(batch.sessions for batch in batches) == len(sampler.sessions)
    session = train.session
    shown = set(zip(train.query[session], train.result, strict=True))
    clicked = {
        pair
        for pair, is_click in zip(zip(train.query[session], train.result, strict=True), train.clicked, strict=True)
        if is_click
    }
    clicks = 0
    for batch in batches:
        for query, item in batch.click:
            assert (batch.queries[query], batch.items[item]) in clicked
        for query, positive, negative in batch.pair:
            assert (batch.queries[query], batch.items[positive]) in clicked
            assert (batch.queries[query], batch.items[negative]) in shown
        for query, item in np.argwhere(batch.known):
            assert (batch.queries[query], batch.items[item]) in clicked
        assert irrelevant or not len(batch.away)
        clicks += len(batch.click)
        assert batch.click_weight.sum() + batch.away_weight.sum() <= batch.sessions + 1e-4
    assert clicks == (train.clicked & ~train.irrelevant[session]).sum()


@given(st.floats(0, 1))
def test_the_share_of_negatives_is_kept_in_every_session(train, share):
    sampler = Sampler(train, batch_size=1, negative_share=share, irrelevant=False)
    kept = wanted = 0
    for at, batch in enumerate(sampler.epoch(np.random.default_rng(0), shuffle=False)):
        one = sampler.sessions.select(np.array([at]))
        exact = share * (~one.clicked).sum()
        assert exact - 1 < len(batch.items) - one.clicked.sum() < exact + 1
        kept, wanted = kept + len(batch.items) - one.clicked.sum(), wanted + exact
    assert kept == pytest.approx(wanted, abs=40)


def test_batches_depend_on_the_seed_alone(train):
    def rows(seed):
        sampler = Sampler(train, batch_size=16, negative_share=0.3)
        return np.concatenate([batch.items for batch in sampler.epoch(np.random.default_rng(seed))]).tolist()

    assert rows(1) == rows(1) != rows(2)


def weighed(exponent, **more):
    """A sampler over two sessions, clicked at positions 1 and 16, and one that was irrelevant."""
    sessions = Sessions(
        query=np.array([0, 1, 2]),
        irrelevant=np.array([False, False, True]),
        starts=np.array([0, 2, 4, 6]),
        result=np.array([3, 4, 4, 3, 3, 4]),
        clicked=np.array([True, False, False, True, False, False]),
        position=np.array([1, 2, 4, 16, 1, 2]),
    )
    return Sampler(sessions, batch_size=3, negative_share=1.0, propensity_exponent=exponent, **more)


def test_a_click_weighs_one_over_its_propensity_and_a_session_one_on_average():
    batch = weighed(0.5).batch(np.arange(3), np.random.default_rng(0))
    np.testing.assert_allclose(batch.click_weight, [0.4, 1.6])  # 1 and √16, over their mean
    np.testing.assert_allclose(batch.pair_weight, [0.4, 1.6])
    np.testing.assert_allclose(batch.away_weight, [0.5, 0.5])
    np.testing.assert_allclose(weighed(0.0).batch(np.arange(3), np.random.default_rng(0)).click_weight, [1, 1])


def test_the_weight_of_a_click_is_clipped():
    batch = weighed(5.0).batch(np.arange(3), np.random.default_rng(0))
    np.testing.assert_allclose(batch.click_weight, [2 / 11, 20 / 11], rtol=1e-6)


def test_a_weight_does_not_depend_on_the_batch():
    alone = weighed(0.5).batch(np.array([1]), np.random.default_rng(0))
    np.testing.assert_allclose(alone.click_weight, [1.6])


@given(st.integers(0, 10_000), st.floats(0, 2))
def test_inverse_propensities_leave_the_mean_weight_of_a_session_at_one(seed, exponent):
    chance = np.random.default_rng(seed)
    lengths = chance.integers(1, 8, 30)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    position = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths) + 1
    clicked = chance.random(starts[-1]) < 0.4
    sessions = Sessions(np.arange(30), np.zeros(30, bool), starts, 30 + position, clicked, position)
    sampler = Sampler(sessions, batch_size=7, negative_share=1.0, propensity_exponent=exponent)
    batches = list(sampler.epoch(chance))
    with_click = len(np.unique(sessions.session[clicked]))
    assert sum(batch.click_weight.sum() for batch in batches) == pytest.approx(with_click, rel=1e-4)


QUERIES = st.sampled_from([*queries(True, 3), *queries(False, 3)]).flatmap(
    lambda query: st.sampled_from([query, query.upper(), f" {query} "])
)
SESSIONS = st.lists(
    st.tuples(
        QUERIES,
        st.lists(st.sampled_from("wxyz"), min_size=1, unique=True),
        st.sets(st.sampled_from("wxyz")),
        st.booleans(),
    ),
    max_size=12,
)


@given(SESSIONS, SESSIONS, st.floats(0, 1), st.integers(0, 9))
def test_replay_never_shows_a_held_out_query_and_judges_by_earlier_ones_too(batch, earlier, share, seed):
    log = read_log(table(*batch), items("x", "y", "z"), earlier=table(*earlier))
    data, alone = make_training_data(log), make_training_data(read_log(table(*batch), items("x", "y", "z")))
    replayed = data.with_replay(share, seed=seed)
    assert not any(is_held_out(data.texts[row]) for row in replayed.query)
    assert len(replayed) == len(data.train) + round(share * len(data.earlier))

    def read(data, part):
        """Sessions as query, shown and clicked texts."""
        rows = zip(part.query, part.starts[:-1], part.starts[1:], strict=True)
        texts = np.array([*data.texts, ""], object)
        return [
            (texts[query], tuple(texts[part.result[start:end]]), tuple(part.clicked[start:end]))
            for query, start, end in rows
        ]

    # The batch is learnt from and judged by as it is without replay, and first.
    assert read(data, data.train) == read(data, replayed)[: len(data.train)] == read(alone, alone.train)
    assert read(data, data.held_out)[: len(alone.held_out)] == read(alone, alone.held_out)
    assert {**data.counts, "sessions_earlier": 0, "sessions_held_out_earlier": 0} == alone.counts
    assert data.judged == alone.judged
    assert len(data.held_out) == len(alone.held_out) + data.counts["sessions_held_out_earlier"]
    assert all(is_held_out(data.texts[row]) for row in data.held_out.query)
    assert all(len(shown) > 1 for _, shown, _ in read(data, data.held_out))
    known = [
        (
            query,
            tuple(f"text of {each}" for each in shown if each != "w"),
            tuple(each in clicked for each in shown if each != "w"),
        )
        for query, shown, clicked, away in earlier
    ]
    assert set(read(data, data.earlier)) <= set(known)
    assert set(read(data, data.held_out)[len(alone.held_out) :]) <= set(known)


def log_of(positions_and_clicks, irrelevant):
    """Sessions of (position, clicked) results, of which each shows items of its own."""
    flat = [result for session in positions_and_clicks for result in session]
    starts = np.cumsum([0] + [len(session) for session in positions_and_clicks])
    position, clicked = (np.array([result[at] for result in flat], dtype) for at, dtype in ((0, int), (1, bool)))
    count = len(positions_and_clicks)
    return Sessions(
        np.arange(count), np.array(irrelevant, bool), starts, count + np.arange(len(flat)), clicked, position
    )


RESULTS = st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=8, unique_by=lambda each: each[0])


@given(st.lists(st.tuples(RESULTS, st.booleans()), min_size=1, max_size=6))
def test_only_what_was_looked_at_is_a_negative(sessions):
    results, irrelevant = [sorted(results) for results, _ in sessions], [away for _, away in sessions]
    sampler = Sampler(log_of(results, irrelevant), batch_size=len(results), negative_share=1.0, seen_only=True)
    batch = sampler.batch(np.arange(len(results)), np.random.default_rng(0))
    expected, item = set(), len(results)
    for shown, away in zip(results, irrelevant, strict=True):
        last = max((position for position, clicked in shown if clicked), default=0)
        for position, clicked in shown:
            if away or clicked or position < last or position == last + 1:
                expected.add(item)
            item += 1
    assert set(batch.items) == expected
    both = Sampler(log_of(results, irrelevant), batch_size=len(results), negative_share=1.0)
    assert len(batch.click) == len(both.batch(np.arange(len(results)), np.random.default_rng(0)).click)


@pytest.mark.parametrize("hardness", [0.0, 1.0, 2.0])
def test_a_negative_is_drawn_by_its_position_to_the_power_of_the_hardness(hardness):
    positions, draws = np.arange(1, 9), 4000
    log = log_of([[(position, False) for position in positions] + [(9, True)]] * draws, [False] * draws)
    sampler = Sampler(log, batch_size=draws, negative_share=1 / 8, negative_hardness=hardness)
    batch = sampler.batch(np.arange(draws), np.random.default_rng(0))
    drawn = (batch.items[np.isin(batch.items, batch.items[batch.click[:, 1]], invert=True)] - draws) % 9
    expected = positions**-hardness / (positions**-hardness).sum()
    assert np.bincount(drawn, minlength=8) / draws == pytest.approx(expected, abs=0.03)
