"""A task's output is put in its place once, from whatever moment an earlier try was killed at."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tuneloop.errors import Conflict
from tuneloop.feedback.store import FeedbackStore
from tuneloop.relational.outputs import Outputs
from tuneloop.tasks.follower import Follower
from tuneloop.tasks.publication import Publication
from tuneloop.tasks.store import TaskStore


class Try:
    """A task that writes `p.parquet`, worked on again and again."""

    def __init__(self, store: TaskStore, folder: Path) -> None:
        self.store = store
        self.output = Outputs(folder, roots=[folder]).locate(f"{folder}/p.parquet")
        self.path = folder / "p.parquet"
        self.id = store.create_predict(asked={}, settings={}).id
        self.part = folder / f".p.parquet.{self.id}.part"
        self.staged = folder / "staged.parquet"
        pq.write_table(pa.table({"x": [1, 2]}), self.staged)

    def begin(self, *, overwrite: bool = False) -> Publication:
        task = self.store.begin(self.id, 1)
        assert task is not None
        follower = Follower(self.store, self.id, 1)
        return Publication(task, self.output, overwrite=overwrite, follower=follower)

    def recorded(self) -> str | None:
        return self.store.get(self.id).output


@pytest.fixture
def one(database, tmp_path: Path) -> Try:
    return Try(TaskStore(database, FeedbackStore(database)), tmp_path)


def test_a_whole_file_appears_at_once(one: Try) -> None:
    first = one.begin()
    first.check()
    assert not first.is_done()
    first.publish(one.staged)
    assert pq.read_table(one.path)["x"].to_pylist() == [1, 2]
    assert (one.recorded(), one.part.exists()) == (str(one.path), False)
    assert one.begin().is_done()  # killed before the task was called done


def test_killed_while_the_part_was_written(one: Try) -> None:
    one.begin()
    one.part.write_bytes(b"half")
    again = one.begin()
    assert not again.is_done()
    again.publish(one.staged)
    assert one.path.exists() and not one.part.exists()


def test_killed_before_the_part_was_linked(one: Try) -> None:
    one.begin()
    one.part.write_bytes(b"whole")
    one.store.update(one.id, 1, output=str(one.path))
    again = one.begin()
    assert not again.is_done()
    again.check()
    again.publish(one.staged)
    assert pq.read_table(one.path).num_rows == 2 and not one.part.exists()


def test_killed_after_the_part_was_linked(one: Try) -> None:
    one.begin()
    one.part.write_bytes(b"whole")
    one.store.update(one.id, 1, output=str(one.path))
    os.link(one.part, one.path)
    assert one.begin().is_done()
    assert one.path.read_bytes() == b"whole" and not one.part.exists()


def test_what_somebody_else_put_there_is_left_alone(one: Try) -> None:
    one.begin()
    one.part.write_bytes(b"whole")
    one.store.update(one.id, 1, output=str(one.path))
    one.path.write_bytes(b"theirs")
    again = one.begin()
    assert not again.is_done()
    with pytest.raises(Conflict, match="exists already"):
        again.check()
    with pytest.raises(Conflict, match="exists already"):
        again.publish(one.staged)
    again.undo()
    assert (one.path.read_bytes(), one.recorded(), one.part.exists()) == (b"theirs", None, False)
    over = one.begin(overwrite=True)
    over.check()
    over.publish(one.staged)
    assert pq.read_table(one.path).num_rows == 2 and not one.part.exists()


def test_what_a_follower_is_told_is_kept_in_order_to_the_last_line(one: Try) -> None:
    one.begin()
    with Follower(one.store, one.id, 1) as follower:
        for number in range(3000):
            follower.log(f"line {number}")
        follower.progress(stage="x")
    lines, after = one.store.log(one.id, limit=10_000)
    assert list(lines) == [f"line {number}" for number in range(3000)]
    assert one.store.log(one.id, after=after)[0] == []
