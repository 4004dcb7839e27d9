from concurrent.futures import ThreadPoolExecutor

import pytest

from tuneloop.errors import Conflict, InvalidInput, NotFound
from tuneloop.feedback.store import FeedbackStore, NewSession, Result
from tuneloop.tasks.store import TaskStore

METHOD = "Probe"


@pytest.fixture
def feedback(database):
    return FeedbackStore(database)


@pytest.fixture
def store(database, feedback):
    return TaskStore(database, feedback)


def collect(feedback, count=1, prefix="s"):
    for number in range(count):
        feedback.add_session(NewSession(f"{prefix}{number}", "query", (Result("item", 0.5, None),)))


def create(store, **changes):
    return store.create_fine_tuning(**{"method": METHOD, "settings": {}, **changes})


def test_a_task_without_batch_releases_what_is_collected(store, feedback):
    collect(feedback, 3)
    task = create(store)
    assert task.status == "pending"
    (released, *_) = [batch for batch in feedback.batches() if batch.status == "released"]
    assert (released.batch_id, released.sessions) == (task.batch_id, 3)


def test_with_nothing_collected_the_task_is_an_error(store):
    task = create(store)
    assert (task.status, task.batch_id) == ("error", None)
    assert "nothing was collected" in (task.detail or "")
    assert store.get(task.id) == task


def test_restart_of_such_a_task_takes_what_came_since(store, feedback):
    task = create(store)
    assert store.restart(task.id).status == "error"
    collect(feedback)
    again = store.restart(task.id)
    assert again.status == "pending"
    assert again.batch_id is not None
    assert again.attempt == task.attempt + 2


def test_a_batch_must_exist_and_be_released(store, feedback):
    collect(feedback)
    (collecting,) = feedback.batches()
    with pytest.raises(Conflict, match="still collecting"):
        create(store, batch_id=collecting.batch_id)
    with pytest.raises(NotFound):
        create(store, batch_id="0" * 24)
    batch_id = feedback.release("r1")
    assert create(store, batch_id=batch_id).batch_id == batch_id
    assert store.list() == [store.list()[0]]


def test_identical_requests_at_once_make_one_task(store, feedback):
    collect(feedback, 5)
    with ThreadPoolExecutor(20) as pool:
        tasks = list(pool.map(lambda _: create(store, idempotency_key="k", metadata={"a": 1}), range(20)))
    assert {task.id for task in tasks} == {tasks[0].id}
    assert {task.status for task in tasks} == {"pending"}
    assert len(store.list()) == 1


def test_another_request_with_the_key_is_refused_and_releases_nothing(store, feedback):
    collect(feedback)
    create(store, idempotency_key="k")
    collect(feedback, prefix="t")
    with pytest.raises(Conflict, match="idempotency_key"):
        create(store, idempotency_key="k", settings={"max_runs": 2})
    assert [batch.sessions for batch in feedback.batches() if batch.status == "collecting"] == [1]


def test_cancel_and_restart(store, feedback):
    collect(feedback)
    task = create(store)
    with pytest.raises(Conflict):
        store.restart(task.id)
    assert store.cancel(task.id).status == "canceled"
    assert store.cancel(task.id).status == "canceled"
    assert store.begin(task.id, task.attempt) is None
    again = store.restart(task.id)
    assert (again.status, again.attempt) == ("pending", 2)
    assert store.begin(task.id, 1) is None
    assert store.begin(task.id, 2).status == "processing"
    assert store.cancel(task.id).status == "processing"
    assert store.cancel_requested(task.id, 2)
    store.update(task.id, 2, status="done")
    for change in (store.cancel, store.restart):
        with pytest.raises(Conflict):
            change(task.id)


def test_an_earlier_attempt_changes_nothing_any_more(store, feedback):
    collect(feedback)
    task = create(store)
    store.begin(task.id, 1)
    store.update(task.id, 1, status="error", detail="first")
    store.restart(task.id)
    store.begin(task.id, 2)
    store.update(task.id, 1, status="done")
    assert store.get(task.id).status == "processing"
    assert store.cancel_requested(task.id, 1)


def test_lists_newest_first_and_filters(store, feedback):
    ids = []
    for number in range(3):
        collect(feedback, prefix=f"b{number}-")
        ids.append(create(store).id)
    store.cancel(ids[1])
    assert [task.id for task in store.list()] == ids[::-1]
    assert [task.id for task in store.list(skip=1, limit=1)] == [ids[1]]
    assert [task.id for task in store.list(status="canceled")] == [ids[1]]
    assert [task.id for task in store.waiting()] == [ids[0], ids[2]]
    assert store.counts() == {"pending": 2, "processing": 0, "done": 0, "canceled": 1, "error": 0}
    with pytest.raises(NotFound):
        store.get(ids[0], kind="other")


def test_embeddings_are_asked_for_once_and_release_nothing(store, feedback):
    collect(feedback)
    asked = {"model": "shop", "version": "@live", "output": None}
    settings = {"model": "shop", "version": "3"}
    task = store.create_embed_items(asked=asked, settings=settings, idempotency_key="k")
    assert (task.kind, task.status, task.method, task.batch_id) == ("embed_items", "pending", None, None)
    moved = store.create_embed_items(asked=asked, settings={**settings, "version": "4"}, idempotency_key="k")
    assert moved == task
    with pytest.raises(Conflict):
        store.create_embed_items(asked={**asked, "output": "x"}, settings=settings, idempotency_key="k")
    with pytest.raises(Conflict):
        create(store, idempotency_key="k")
    store.cancel(task.id)
    again = store.restart(task.id)
    assert (again.status, again.attempt, again.batch_id) == ("pending", 2, None)
    assert [batch.status for batch in feedback.batches()] == ["collecting"]
    fine_tuning = create(store)
    assert [each.id for each in store.list(kind="embed_items")] == [task.id]
    assert [each.id for each in store.waiting()] == [task.id, fine_tuning.id]


DATASET = {"name": "shop", "tables": [{"name": "t", "source": "t.csv"}]}


def test_the_same_request_about_tables_is_the_same_task(store):
    checks = []

    def ask(dataset=DATASET, key="k", **settings):
        check = lambda: checks.append(key)  # noqa: E731
        return store.create_relational(dataset=dataset, settings=settings, idempotency_key=key, check=check)

    task = ask(max_runs=2)
    assert (task.kind, task.status, task.dataset, task.settings) == ("relational", "pending", DATASET, {"max_runs": 2})
    assert ask(max_runs=2) == task and checks == ["k"]
    with pytest.raises(Conflict):
        ask(max_runs=3)
    with pytest.raises(Conflict):
        ask(dataset={**DATASET, "name": "other"}, max_runs=2)
    settings = {"model": "churn", "version": "1", "source": "t.csv", "output": "p.csv"}
    predict = store.create_predict(asked={**settings, "version": "latest"}, settings=settings, idempotency_key="p")
    moved = {**settings, "version": "2"}
    assert store.create_predict(asked={**settings, "version": "latest"}, settings=moved, idempotency_key="p") == predict
    with pytest.raises(Conflict):
        store.create_predict(asked={**settings, "version": "2"}, settings=moved, idempotency_key="p")
    assert [each.id for each in store.list(kind="predict")] == [predict.id]


def test_what_a_check_refuses_is_not_stored(store):
    def refuse():
        raise NotFound("no such table")

    with pytest.raises(NotFound, match="no such table"):
        store.create_relational(dataset=DATASET, settings={}, check=refuse)
    assert store.list() == []


def test_a_log_is_read_on_from_a_cursor(store):
    first, other = (store.create_relational(dataset=DATASET, settings={}) for _ in range(2))
    assert store.log(first.id)[0] == []
    start = store.log(first.id)[1]
    store.append_log(first.id, 1, ["too early"])
    for task in (first, other):
        store.begin(task.id, 1)
    store.append_log(first.id, 1, ["one", "two"])
    store.append_log(other.id, 1, ["another's"])
    store.append_log(first.id, 1, ["th\0ree", "x" * 20_000])
    lines, after = store.log(first.id, limit=2)
    assert lines == ["one", "two"]
    assert store.log(first.id, after=start, limit=2) == (lines, after)
    lines, last = store.log(first.id, after=after)
    assert lines[0] == "three" and len(lines) == 2 and len(lines[1]) < 11_000
    assert store.log(first.id, after=last) == ([], last)
    store.update(first.id, 1, status="error")
    store.restart(first.id)
    store.begin(first.id, 2)
    store.append_log(first.id, 1, ["from the grave"])
    store.append_log(first.id, 2, ["again"])
    assert store.log(first.id, after=last)[0] == ["again"]
    with pytest.raises(NotFound):
        store.log("0" * 24)
    for wrong in ("nonsense!", "LTE", "Zm9v"):
        with pytest.raises(InvalidInput, match="after"):
            store.log(first.id, after=wrong)
