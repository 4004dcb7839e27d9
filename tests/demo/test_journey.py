"""The demo's steps against a real API: what a killed demo left half done is gone on with, and nothing is sent twice."""

import pytest

from support.api import running, settings_for
from tuneloop.client import Client
from tuneloop.demo.journey import DemoError, Journey
from tuneloop.demo.shop import Shop


@pytest.fixture
def client(tmp_path):
    with running(settings_for(tmp_path)) as url, Client(url, retry_seconds=0) as client:
        yield client


def send(journey):
    for step in (journey.send_items, journey.send_history, journey.send_live):
        step(lambda _: None)


def test_a_round_is_sent_once_however_often_it_is_sent(client, small):
    shop = Shop(small)
    counted = []
    journey = Journey(client, shop)
    assert (journey.round, journey.task) == (0, None)
    journey.send_items(counted.append)
    assert counted[-1] == len(shop.articles) == len(list(client.items()))
    send(journey)
    send(Journey(client, shop))
    (batch,) = client.batches()
    assert batch.sessions == small.sessions_per_round
    stored = {session.session_id: session for session in client.batch_sessions(batch.batch_id)}
    for session in shop.sessions(0):
        found = stored[session.session_id]
        assert found.search_query == session.query.text
        assert found.is_irrelevant == session.is_irrelevant
        assert len(found.events) == len(session.events)


def test_a_killed_demo_is_gone_on_with(client, small):
    shop = Shop(small)
    journey = Journey(client, shop)
    send(journey)
    task = journey.start_tuning()
    assert task.metadata == {"demo": 0}
    again = Journey(client, shop)  # while the task waits or runs
    assert (again.round, again.task.id) == (0, task.id)
    assert journey.start_tuning().id == task.id  # killed between the request and its answer
    client.cancel_task(task.id)
    canceled = Journey(client, shop)
    assert (canceled.round, canceled.task) == (0, None)
    send(canceled)
    restarted = canceled.start_tuning()
    assert (restarted.id, restarted.status) == (task.id, "pending")


def test_a_task_that_found_nothing_to_learn_from_does_not_stop_later_rounds(client, small):
    shop = Shop(small)
    journey = Journey(client, shop)
    task = journey.start_tuning()
    assert task.status == "error"
    with pytest.raises(DemoError, match="error"):
        journey.follow(lambda _: None)
    assert (Journey(client, shop).round, Journey(client, shop).task) == (1, None)


def test_refused_sessions_are_said(client, small):
    journey = Journey(client, Shop(small))
    client.add_session("demo-0-3", "something else", [{"object_id": "art-0001"}])
    with pytest.raises(DemoError, match="refused 1 sessions"):
        journey.send_history(lambda _: None)
