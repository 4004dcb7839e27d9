"""Snapshots and erasure: what is forgotten is in no stored file, whenever the process dies."""

import threading
from pathlib import Path

import pytest

from tuneloop.catalog.store import Catalog, Item
from tuneloop.feedback.store import FeedbackStore, NewEvent, NewSession, Result
from tuneloop.methods.contract import Canceled
from tuneloop.methods.snapshot import Snapshot
from tuneloop.tasks.erasure import Erasure
from tuneloop.tasks.snapshots import SnapshotStore
from tuneloop.tasks.store import TaskStore

SECRET = "zanzibar-wedding-plans"


class Setup:
    def __init__(self, database, folder):
        self.database = database
        self.feedback = FeedbackStore(database)
        self.catalog = Catalog(database)
        self.folder = folder
        self.snapshots = SnapshotStore(database, self.feedback, self.catalog, str(folder))
        self.erasure = Erasure(database, self.feedback, self.snapshots)
        self.tasks = TaskStore(database, self.feedback)
        self.catalog.upsert([Item("i0", "first"), Item("i1", None, {"name": "second"})])

    def collect(self, *users):
        for user in users:
            for number in range(3):
                results = (Result("i0", 0.9, None), Result("i1", None, None), Result("unknown", 0.1, None))
                query = SECRET if user == "secret" else f"query {number}"
                self.feedback.add_session(NewSession(f"{user}-{number}", query, results, user_id=user))
                self.feedback.add_events(f"{user}-{number}", [NewEvent("e", "i1")])

    def task(self):
        task = self.tasks.create_fine_tuning(method="m", settings={})
        return task.id, task.batch_id

    def files(self):
        return b"".join(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def setup(database, tmp_path):
    return Setup(database, tmp_path / "snapshots")


def write(setup, task, **more):
    return setup.snapshots.write(*task, check=lambda: None, **more)


def ids(snapshot):
    return snapshot.sessions()["session_id"].to_pylist()


def earlier_ids(snapshot):
    return snapshot.earlier_sessions()["session_id"].to_pylist()


def test_holds_the_sessions_of_the_batch_and_the_texts_they_show(setup):
    setup.collect("a", "b")
    task = setup.task()
    setup.collect("late")
    snapshot = write(setup, task)
    assert ids(snapshot) == ["a-0", "a-1", "a-2", "b-0", "b-1", "b-2"]
    first = snapshot.sessions().to_pylist()[0]
    assert [result["object_id"] for result in first["results"]] == ["i0", "i1", "unknown"]
    assert [result["rank"] for result in first["results"]] == [0.9, None, 0.1]
    assert [event["object_id"] for event in first["events"]] == ["i1"]
    assert snapshot.items().to_pylist()[0] == {"object_id": "i0", "text": "first"}
    assert snapshot.items()["object_id"].to_pylist() == ["i0", "i1"]
    assert "user_id" not in snapshot.sessions().column_names


def test_holds_a_seeded_sample_of_earlier_batches_no_larger_than_its_own(setup):
    setup.catalog.upsert([Item("i2", "third")])
    tasks = []
    for users in ("abcdef", "ghijkl", "mn", "op"):
        setup.collect(*users)
        if users == "abcdef":
            setup.feedback.add_session(NewSession("other", "query", (Result("i2", 0.9, None),)))
        tasks.append(setup.task())
    first, third = tasks[0], tasks[2]
    assert not write(setup, first, earlier=100).has_earlier_sessions
    assert earlier_ids(write(setup, first, earlier=100)) == []
    assert not write(setup, tasks[1]).has_earlier_sessions

    snapshot = write(setup, third, earlier=100)
    drawn = earlier_ids(snapshot)
    assert len(drawn) == len(set(drawn)) == len(ids(snapshot)) == 6
    before = ids(write(setup, first)) + ids(write(setup, tasks[1]))
    assert [each for each in before if each in drawn] == drawn
    assert set(drawn) & set(before[:19]) and set(drawn) & set(before[19:])
    assert all(
        len(session["events"]) == (session["session_id"] != "other")
        for session in snapshot.earlier_sessions().to_pylist()
    )

    setup.snapshots.delete(third[0])
    assert earlier_ids(write(setup, third, earlier=100)) == drawn
    setup.snapshots.delete(third[0])
    assert earlier_ids(write(setup, third, earlier=100, seed=1)) != drawn
    setup.snapshots.delete(third[0])
    assert len(earlier_ids(write(setup, third, earlier=4))) == 4


def test_holds_the_texts_that_earlier_sessions_show(setup):
    setup.catalog.upsert([Item("i2", "third")])
    setup.feedback.add_session(NewSession("other", "query", (Result("i2", 0.9, None),)))
    setup.task()
    setup.collect("a")
    snapshot = write(setup, setup.task(), earlier=1)
    assert earlier_ids(snapshot) == ["other"]
    assert snapshot.items()["object_id"].to_pylist() == ["i0", "i1", "i2"]


def test_a_user_of_an_earlier_batch_is_forgotten(setup):
    setup.collect("secret", "a")
    setup.task()
    setup.collect("b", "c")
    snapshot = write(setup, setup.task(), earlier=100)
    assert len(earlier_ids(snapshot)) == 6 and SECRET.encode() in setup.files()
    setup.erasure.forget_user("secret")
    assert earlier_ids(snapshot) == ["a-0", "a-1", "a-2"]
    assert len(ids(snapshot)) == 6
    assert SECRET.encode() not in setup.files()


def test_earlier_sessions_forgotten_after_a_killed_attempt_leave_no_trace(setup):
    setup.collect("secret")
    setup.task()
    setup.collect("a")
    task = setup.task()

    def check():
        for file in setup.folder.rglob("earlier_sessions.parquet"):
            file.with_name(f"{file.name}.part").write_bytes(file.read_bytes())
            raise Canceled

    with pytest.raises(Canceled):
        setup.snapshots.write(*task, earlier=100, check=check)
    assert SECRET.encode() in setup.files()
    setup.erasure.forget_user("secret")
    snapshot = write(setup, task, earlier=100)
    assert not snapshot.has_earlier_sessions
    assert SECRET.encode() not in setup.files()


def test_is_written_once(setup):
    setup.collect("a")
    task = setup.task()
    before = write(setup, task)
    setup.feedback.add_events("a-0", [NewEvent("late", "i0")])
    assert write(setup, task) == before
    assert len(before.sessions().to_pylist()[0]["events"]) == 1


def test_a_forgotten_user_leaves_no_trace(setup, database, tmp_path):
    setup.collect("a", "secret", "b")
    snapshot = write(setup, setup.task())
    assert SECRET.encode() in setup.files()
    assert setup.erasure.forget_user("secret") == 3
    assert ids(snapshot) == ["a-0", "a-1", "a-2", "b-0", "b-1", "b-2"]
    assert SECRET.encode() not in setup.files()
    if database.is_sqlite:
        path = Path(database.engine.url.database)
        stored = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
        assert SECRET.encode() not in stored
        assert b"secret-0" not in stored
    assert setup.erasure.forget_user("secret") == 0
    assert setup.erasure.forget_session("a-1") == 1
    assert "a-1" not in ids(snapshot)


def test_a_user_forgotten_while_the_snapshot_is_written(setup):
    setup.collect("a", "secret")
    task = setup.task()
    began, forgotten = threading.Event(), threading.Event()

    def check():
        began.set()
        assert forgotten.wait(20)

    def forget():
        assert began.wait(20)
        setup.erasure.forget_user("secret")
        forgotten.set()

    thread = threading.Thread(target=forget)
    thread.start()
    snapshot = setup.snapshots.write(*task, check=check)
    thread.join()
    assert ids(snapshot) == ["a-0", "a-1", "a-2"]
    assert SECRET.encode() not in setup.files()


def test_an_erasure_killed_half_way_is_finished_later(setup, database):
    setup.collect("a", "secret")
    snapshot = write(setup, setup.task())
    with database.write() as connection:  # killed before the files were rewritten
        setup.feedback.forget_user("secret", connection)
        setup.snapshots.mark(connection)
    assert SECRET.encode() in setup.files()
    setup.snapshots.scrub()
    assert ids(snapshot) == ["a-0", "a-1", "a-2"]
    assert SECRET.encode() not in setup.files()


def test_writing_is_canceled_and_done_again(setup):
    setup.collect("a")
    task = setup.task()

    def check():
        raise Canceled

    with pytest.raises(Canceled):
        setup.snapshots.write(*task, check=check)
    assert not list(setup.folder.rglob("*.part"))
    assert len(ids(write(setup, task))) == 3


def test_is_deleted_when_the_task_is_done(setup):
    setup.collect("a")
    task_id, batch_id = setup.task()
    write(setup, (task_id, batch_id))
    setup.tasks.begin(task_id, 1)
    setup.snapshots.delete_left_over()
    assert setup.files()
    setup.tasks.update(task_id, 1, status="done")
    setup.snapshots.delete_left_over()
    assert not list(setup.folder.iterdir())
    setup.snapshots.delete(task_id)


def test_other_filesystems(setup, database):
    setup.collect("a", "secret")
    snapshots = SnapshotStore(database, setup.feedback, setup.catalog, "memory://snapshots")
    snapshot = snapshots.write(*setup.task(), check=lambda: None)
    Erasure(database, setup.feedback, snapshots).forget_user("secret")
    assert ids(Snapshot(snapshot.url)) == ["a-0", "a-1", "a-2"]
