"""Whatever people do in whatever order: every session is in exactly one batch, and nothing is counted twice."""

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.feedback import click, ndjson, new_session, session_line
from tuneloop.database import Database
from tuneloop.errors import Conflict, NotFound
from tuneloop.feedback.store import FeedbackStore
from tuneloop.feedback.tables import batches, events, sessions

# The database is one for all examples of a test; each begins by emptying it.
few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
some_id = st.sampled_from(["s0", "s1", "s2", "s3", "s4", "s5"])
some_user = st.sampled_from(["u0", "u1", None])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), some_id, some_user),
        st.tuples(st.just("import"), st.lists(some_id, max_size=4), some_user),
        st.tuples(st.just("event"), some_id, st.sampled_from(["e0", "e1", "e2"])),
        st.tuples(st.just("release"), st.sampled_from(["r0", "r1", "r2"]), st.none()),
        st.tuples(st.just("forget"), some_id, st.none()),
        st.tuples(st.just("forget user"), some_user.filter(bool), st.none()),
    ),
    max_size=25,
)


@pytest.fixture(autouse=True)
def _no_shared_state(database: Database) -> None:
    """Ask for the database before Hypothesis runs."""


def empty(database: Database) -> None:
    with database.write() as connection:
        for table in (events, sessions, batches):
            connection.execute(sa.delete(table))


@few
@given(steps=steps)
def test_every_session_is_in_exactly_one_batch(store: FeedbackStore, database: Database, steps: list[tuple]) -> None:  # type: ignore[type-arg]  # each kind has its own
    empty(database)
    user: dict[str, str | None] = {}
    batch_of: dict[str, str] = {}
    seen: dict[str, set[str]] = {}
    released: dict[str, str] = {}
    late = 0

    def stored(session_id: str, its_user: str | None) -> None:
        if session_id not in user:
            user[session_id], seen[session_id] = its_user, set()
            batch_of[session_id] = store.get_session(session_id).batch_id
            assert batch_of[session_id] not in released.values()

    def forgotten(*session_ids: str) -> None:
        for session_id in session_ids:
            del user[session_id], batch_of[session_id], seen[session_id]

    for kind, subject, detail in steps:
        if kind == "add":
            clash = subject in user and user[subject] != detail
            try:
                assert store.add_session(new_session(subject, user_id=detail)) is (subject not in user)
                assert not clash
            except Conflict:
                assert clash
            stored(subject, detail)
        elif kind == "import":
            more = {"user_id": detail} if detail else {}
            report = store.import_sessions(ndjson(*(session_line(one, **more) for one in subject)))
            assert report.accepted == len(set(subject) - user.keys())
            assert report.rejected_total == sum(one in user and user[one] != detail for one in subject)
            for one in subject:
                stored(one, detail)
        elif kind == "event":
            try:
                added = store.add_events(subject, [click(detail)])
                assert added == (detail not in seen[subject])
                seen[subject].add(detail)
                late += added and batch_of[subject] in released.values()
            except NotFound:
                assert subject not in user
        elif kind == "release":
            try:
                batch_id = store.release(subject)
                assert released.setdefault(subject, batch_id) == batch_id
            except Conflict:
                assert subject not in released
                assert set(batch_of.values()) <= set(released.values())
        else:
            gone = [one for one in user if (one if kind == "forget" else user[one]) == subject]
            with database.write() as connection:
                forget = store.forget_session if kind == "forget" else store.forget_user
                assert forget(subject, connection) == len(gone)
            forgotten(*gone)

    found = {
        session.session_id: batch.batch_id
        for batch in store.batches()
        for session in store.batch_sessions(batch.batch_id, after=None, limit=1000)[0]
    }
    assert found == batch_of
    assert sum(batch.sessions for batch in store.batches()) == len(batch_of)
    assert sum(batch.late_events for batch in store.batches()) == late
    assert {batch.batch_id for batch in store.batches() if batch.status == "released"} == set(released.values())
    assert {one: {event.event_id for event in store.get_session(one).events} for one in user} == seen


@few
@given(count=st.integers(0, 30), limit=st.integers(1, 12), gone=st.sets(st.integers(0, 29)))
def test_pages_give_each_session_once_in_order(
    store: FeedbackStore, database: Database, count: int, limit: int, gone: set[int]
) -> None:
    empty(database)
    store.add_session(new_session("first"))
    store.import_sessions(ndjson(*(session_line(f"{number}") for number in range(count))))
    with database.write() as connection:
        for number in gone:
            store.forget_session(f"{number}", connection)
    found: list[str] = []
    after: str | None = None
    while True:
        page, after = store.batch_sessions(store.batches()[0].batch_id, after=after, limit=limit)
        found += [session.session_id for session in page]
        assert len(page) == limit or after is None
        if after is None:
            break
    assert found == ["first", *(f"{number}" for number in range(count) if number not in gone)]
