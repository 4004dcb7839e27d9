"""The search sessions: stable, biased as the parameters say, and disjoint from the held-out searches."""

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest


@pytest.fixture(scope="module")
def grades(shop, sessions):
    """The grade of each shown result, shape (sessions, 20)."""
    column = {article.object_id: index for index, article in enumerate(shop.articles)}
    shown = np.array([[column[object_id] for object_id, _ in session.results] for session in sessions])
    return shop.intents.grades[np.array([session.query.intent for session in sessions])[:, None], shown]


@pytest.fixture(scope="module")
def clicked(sessions):
    """Which shown results were clicked, shape (sessions, 20)."""
    clicks = [{object_id for object_id, kind, _ in session.events if kind == "click"} for session in sessions]
    return np.array([[i in found for i, _ in session.results] for session, found in zip(sessions, clicks, strict=True)])


def test_ids_are_stable_and_rounds_differ(shop, sessions):
    assert [session.session_id for session in sessions[:3]] == ["demo-0-0", "demo-0-1", "demo-0-2"]
    later = list(shop.sessions(2))
    assert len(later) == len(sessions) == 6000
    assert later[17].session_id == "demo-2-17"
    assert {session.query.text for session in later} != {session.query.text for session in sessions}
    assert min(session.created_at for session in later) > max(session.created_at for session in sessions)


def test_sessions_are_what_the_service_takes(shop, sessions):
    first = datetime.combine(shop.parameters.last_day, datetime.max.time(), UTC).timestamp()
    for session in sessions:
        line = session.line()
        assert line["search_query"].strip()
        shown = [result["object_id"] for result in line["search_results"]]
        scores = [result["rank"] for result in line["search_results"]]
        assert len(shown) == len(set(shown)) == 20
        assert scores == sorted(scores, reverse=True)
        assert all(event["object_id"] in shown for event in line["events"])
        assert len({event["event_id"] for event in line["events"]}) == len(line["events"])
        assert all(event["created_at"] > line["created_at"] > first for event in line["events"])


def test_there_is_something_of_every_kind_of_session(sessions, clicked):
    kinds = Counter(kind for session in sessions for _, kind, _ in session.events)
    assert kinds["click"] > kinds["add_to_cart"] > kinds["purchase"] > 100
    assert 0.4 < clicked.any(axis=1).mean() < 0.8
    assert 0.03 < np.mean([session.is_irrelevant for session in sessions]) < 0.12
    assert not any(session.events for session in sessions if session.is_irrelevant)
    assert 0.1 < np.mean([session.user_id is None for session in sessions]) < 0.3


def test_shoppers_mix_invented_and_normal_words_and_word_an_intent_in_several_ways(shop, sessions):
    invented = [sum(word in shop.lexicon.invented for word in s.query.words) / len(s.query.words) for s in sessions]
    assert all(
        np.mean([low <= share <= high for share in invented]) > 0.1 for low, high in ((0, 0), (0.1, 0.9), (1, 1))
    )
    wordings = {}
    for session in sessions:
        wordings.setdefault(session.query.intent, set()).add(session.query.text)
    assert np.median([len(texts) for texts in wordings.values()]) >= 3


def test_the_house_engine_shows_relevant_results_in_a_poor_order(grades):
    assert (grades == 2).any(axis=1).mean() > 0.5
    best = np.argmax(grades == 2, axis=1)[(grades == 2).any(axis=1)]
    assert 3 < best.mean() < 9  # somewhere on the page, seldom first


def test_clicks_show_position_bias_and_mistakes(shop, grades, clicked):
    """CTR at a grade falls with the position as 1 / position ** bias: the slope in log-log recovers it roughly."""
    places = np.arange(1, 21)
    rates = np.array([clicked[:, place - 1][grades[:, place - 1] > 0].mean() for place in places])
    weights = np.array([(grades[:, place - 1] > 0).sum() for place in places])
    slope = np.polyfit(np.log(places), np.log(rates), 1, w=np.sqrt(weights))[0]
    assert -slope == pytest.approx(shop.parameters.position_bias, abs=0.2)
    first = [clicked[:, 0][grades[:, 0] == grade].mean() for grade in (0, 1, 2)]
    assert 0 < first[0] < first[1] < first[2]


def test_grades_say_how_much_of_the_intent_an_article_meets(shop):
    for wanted, grades in list(zip(shop.intents.concepts, shop.intents.grades, strict=True))[::40]:
        for article, grade in zip(shop.articles, grades, strict=True):
            met = sum(getattr(article, concept.facet) == concept.value for concept in wanted)
            assert grade == {len(wanted): 2, len(wanted) - 1: 1}.get(met, 0)
    assert ((shop.intents.grades == 2).sum(axis=1) >= 2).all()


def test_held_out_searches_are_new_in_every_round_and_their_words_are_not(shop, sessions):
    held_out = {held.query.intent for held in shop.held_out}
    texts = {held.query.text for held in shop.held_out}
    assert len(texts) == len(shop.held_out) >= 300
    known = {word for session in sessions for word in session.query.words}
    for session in [*sessions, *shop.sessions(1)]:
        assert session.query.intent not in held_out
        assert session.query.text not in texts
    for held in shop.held_out:
        assert known.issuperset(held.query.words)
        assert any(word in shop.lexicon.invented for word in held.query.words)
        assert set(held.relevance.values()) <= {1, 2}
        assert 2 in held.relevance.values()
        assert held.relevance == shop._searches.relevance(held.query.intent)
