"""Threads that each compute on one core: several cores on one small product mostly wait for each other."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class Lanes:
    """So many threads, of one core each; with one, whoever asks does the work.

    Args:
        count: of threads.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="lane") if count > 1 else None
        if self._pool is not None:
            ready = threading.Barrier(count + 1)
            for _ in range(count):
                self._pool.submit(_one_core, ready)
            before = torch.get_num_threads()
            ready.wait()
            torch.set_num_threads(before)  # what threads that begin from now on start with

    def map(self, work: Callable[[Job], Answer], jobs: Iterable[Job]) -> Iterator[Answer]:
        """The answers, in order; few wait at a time, so that whoever takes them can stop soon.

        Jobs may be made while earlier ones are worked on.
        """
        if self._pool is None:
            yield from map(work, jobs)
            return
        waiting: list[Future[Answer]] = []
        rest = iter(jobs)
        try:
            for job in itertools.islice(rest, 2 * self.count):
                waiting.append(self._pool.submit(work, job))
            while waiting:
                answer = waiting.pop(0).result()
                waiting += (self._pool.submit(work, job) for job in itertools.islice(rest, 1))
                yield answer
        finally:
            for each in waiting:
                each.cancel()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _one_core(ready: threading.Barrier) -> Any:
    torch.get_num_threads()  # PyTorch first gives a new thread the common number; only then may it have its own
    torch.set_num_threads(1)
    ready.wait()
