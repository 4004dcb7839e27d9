"""Forgetting: rows go with their events, and no bytes stay behind."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from support.feedback import click, in_threads, new_session
from tuneloop.database import Database
from tuneloop.errors import NotFound
from tuneloop.feedback.store import FeedbackStore, NewSession, Result
from tuneloop.feedback.tables import events
from tuneloop.ids import now_micros


def event_count(database: Database) -> int:
    with database.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(events)) or 0


def test_a_forgotten_session_is_gone_with_its_events(store: FeedbackStore, database: Database) -> None:
    for session_id in "st":
        store.add_session(new_session(session_id))
        store.add_events(session_id, [click("1"), click("2")])
    with database.write() as connection:
        assert store.forget_session("s", connection) == 1
        assert store.forget_session("s", connection) == 0
    with pytest.raises(NotFound):
        store.get_session("s")
    assert (event_count(database), store.batches()[0].sessions) == (2, 1)
    assert store.add_session(new_session("s")) is True


def test_a_forgotten_user_leaves_nobody_elses_sessions(store: FeedbackStore, database: Database) -> None:
    for number in range(10):
        store.add_session(new_session(f"{number}", user_id="u" if number < 5 else None))
    store.release("r")
    store.add_session(new_session("later", user_id="u"))
    store.add_session(new_session("other", user_id="U"))
    with database.write() as connection:
        assert store.forget_user("u", connection) == 6
        assert store.forget_user("nobody", connection) == 0
    assert [batch.sessions for batch in store.batches()] == [5, 1]


def test_sessions_are_forgotten_by_the_age_of_their_arrival(store: FeedbackStore, database: Database) -> None:
    store.add_session(new_session("old", created_at=4_000_000_000_000_000))
    between = now_micros() + 1
    while now_micros() <= between:
        pass
    store.add_session(new_session("new", created_at=1))
    with database.write() as connection:
        assert store.forget_before(between, connection) == 1
    assert store.get_session("new").created_at == 1


def test_a_batch_that_was_emptied_has_nothing_to_release(store: FeedbackStore, database: Database) -> None:
    store.add_session(new_session())
    with database.write() as connection:
        store.forget_session("s", connection)
        assert store.release_collecting(connection) is None


def test_no_byte_of_a_forgotten_user_stays_in_the_files(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/tuneloop.sqlite")
    database.migrate()
    store = FeedbackStore(database)
    for number in range(40):
        secret = "secret " * (1 + 40 * number)
        results = (Result("secret object", meta={"note": secret}), Result("b"))
        sent = NewSession(f"secret {number}", f"secret {secret}", results, {"k": secret}, "secret user")
        store.add_session(sent)
        store.add_events(f"secret {number}", [click("secret event", "secret object", meta=secret)])
        store.add_session(new_session(f"open {number}", user_id="somebody"))
    assert any(b"secret" in file.read_bytes() for file in tmp_path.iterdir())
    with database.write() as connection:
        assert store.forget_user("secret user", connection) == 40
    database.scrub()
    assert [file.name for file in tmp_path.iterdir() if b"secret" in file.read_bytes()] == []
    assert store.batches()[0].sessions == 40
    database.dispose()


def test_forgetting_while_others_write_breaks_nothing(store: FeedbackStore, database: Database) -> None:
    def work(number: int) -> None:
        for at in range(10):
            session_id = f"{at}"
            if number % 3 == 0:
                with database.write() as connection:
                    store.forget_user("u", connection)
            elif number % 3 == 1:
                store.add_session(new_session(session_id, user_id="u"))
            else:
                try:
                    store.add_events(session_id, [click("1"), click("2", "b")])
                except NotFound:
                    store.add_session(new_session(session_id, user_id="u"))

    assert in_threads(12, work) == [None] * 12
    with database.write() as connection:
        store.forget_user("u", connection)
    assert event_count(database) == store.batches()[0].sessions == 0
