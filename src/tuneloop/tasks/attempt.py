"""How an attempt at a task ends, whatever happens in it."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

from tuneloop.errors import TuneloopError
from tuneloop.iteration.job import IterationFailed
from tuneloop.methods.contract import Canceled

log = structlog.get_logger(__name__)
T = TypeVar("T")


def ending(task_id: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the task's record says of its end: `status`, `detail` and what `work` returns when it is done."""
    try:
        return {"status": "done", **work()}
    except Canceled:
        return {"status": "canceled", "detail": "canceled"}
    except IterationFailed as error:
        return {"status": "error", "detail": str(error)}
    except TuneloopError as error:
        return {"status": "error", "detail": error.detail}
    except Exception as error:
        log.exception("task failed", task_id=task_id)
        return {"status": "error", "detail": f"{type(error).__name__}: {error}"}


def interruptible(work: Callable[[], T], check: Callable[[], None], *, every: float = 0.2) -> T:
    """The answer of work that cannot be stopped; when `check` raises, it is left to itself."""
    answers: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        check()
        thread.join(every)
    if errors:
        raise errors[0]
    return answers[0]
