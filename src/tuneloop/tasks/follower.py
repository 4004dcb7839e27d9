"""Following a task that is worked on: its progress on the way out, a cancellation on the way in."""

import threading
from types import TracebackType
from typing import Any, Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from tuneloop.methods.contract import Canceled
from tuneloop.tasks.store import TaskStore

log = structlog.get_logger(__name__)
POLL_SECONDS = 0.5


class Follower:
    """Keeps a task's record current from a thread of its own, so that training never waits for the database.

    A context manager; `iteration.job.Observer` inside the block.
    """

    def __init__(self, store: TaskStore, task_id: str, attempt: int) -> None:
        self._store = store
        self._task_id = task_id
        self._attempt = attempt
        self._canceled = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._progress: dict[str, Any] = {}
        self._changed = False
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._follow, name=f"follow {task_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def check(self) -> None:
        """Raises Canceled when somebody asked to stop."""
        if self._canceled.is_set():
            raise Canceled

    def progress(self, **fields: Any) -> None:
        """Note what is being done; None takes a field away."""
        with self._lock:
            self._progress.update(fields)
            self._progress = {name: value for name, value in self._progress.items() if value is not None}
            self._changed = True

    def log(self, line: str) -> None:
        """Add a line to what the task prints."""
        with self._lock:
            self._lines.append(line)

    def found(self, **fields: str | None) -> None:
        """Store what is known from now on."""
        self._store.update(self._task_id, self._attempt, **fields)

    def _follow(self) -> None:
        while True:
            over = self._over.wait(POLL_SECONDS)
            try:
                if self._store.cancel_requested(self._task_id, self._attempt):
                    self._canceled.set()
                self._tell()
            except SQLAlchemyError:
                log.warning("the database does not answer; trying again", task_id=self._task_id, exc_info=True)
            if over:
                return

    def _tell(self) -> None:
        with self._lock:
            progress, self._changed = (dict(self._progress) if self._changed else None), False
            lines = list(self._lines)
        if progress is not None:
            self._store.update(self._task_id, self._attempt, progress=progress)
        if lines:
            self._store.append_log(self._task_id, self._attempt, lines)
            with self._lock:
                del self._lines[: len(lines)]  # what could not be stored is tried again
