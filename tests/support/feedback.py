"""Sessions and events for tests."""

import json
import threading
from collections.abc import Callable
from typing import Any

from tuneloop.feedback.store import NewEvent, NewSession, Result


def new_session(session_id: str = "s", query: str = "red shoes", objects: str = "abc", **more: Any) -> NewSession:
    """A session that showed an object for each letter of `objects`, the first with the highest score."""
    results = tuple(Result(object_id, 1.0 - at / 10) for at, object_id in enumerate(objects))
    return NewSession(session_id, query, results, **more)


def click(event_id: str = "e", object_id: str = "a", **more: Any) -> NewEvent:
    """A click on one object."""
    return NewEvent(event_id, object_id, **more)


def session_line(session_id: str = "s", objects: str = "abc", **more: Any) -> dict[str, Any]:
    """A session as a client sends it."""
    results = [{"object_id": object_id, "rank": 1.0 - at / 10} for at, object_id in enumerate(objects)]
    return {"session_id": session_id, "search_query": "red shoes", "search_results": results, **more}


def ndjson(*values: Any) -> list[bytes]:
    """One line for each value; bytes stand as they are."""
    return [value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n" for value in values]


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    """What `work(0)` … `work(count - 1)` return or raise, all begun at the same moment."""
    answers: list[object] = [None] * count
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            answers[number] = work(number)
        except Exception as error:
            answers[number] = error

    threads = [threading.Thread(target=run, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
