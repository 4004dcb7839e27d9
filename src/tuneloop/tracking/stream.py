"""Metrics on their way to MLflow while a run is training."""

import threading
import time
from collections.abc import Mapping

from tuneloop.tracking.runs import Runs
from tuneloop.tracking.series import Series

# Seconds that metrics are gathered before they are sent.
INTERVAL = 0.5
# What MLflow takes in one request.
MAX_METRICS = 1000


class MetricStream:
    """Sends a run's metrics from a thread of its own: training never waits for MLflow.

    Metrics reach MLflow within about a second; while it is away they are kept and tried again. Derived series
    (`tuneloop.tracking.series`) are added.

    Args:
        runs: where the run is; its `check` is heard by `close`.
        run_id: the run.
    """

    def __init__(self, runs: Runs, run_id: str) -> None:
        # A cancel is heard by `close`; here only a stream that was given up stops trying.
        self._runs = Runs(runs.server.uri, retry_seconds=runs.server.retry_seconds, check=self._stop_if_dropped)
        self._check = runs.server.check
        self._run_id = run_id
        self._series = Series()
        self._waiting: list[tuple[str, float, int, int]] = []  # name, value, ms since 1970, step
        self._changed = threading.Condition()
        self._closing = False
        self._dropped = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name=f"metrics-{run_id}", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Send metrics, soon.

        Raises:
            TuneloopError: metrics sent before could not be logged.
        """
        self._raise_error()
        now = time.time_ns() // 1_000_000
        rows = [(name, float(value), now, step) for name, value in self._series.add(metrics).items()]
        with self._changed:
            self._waiting.extend(rows)
            self._changed.notify_all()

    def close(self, *, flush: bool = True) -> None:
        """End the stream: once all metrics are in MLflow, or at once with `flush=False`.

        Raises:
            TuneloopError: metrics could not be logged.
            Exception: what the tracking's `check` raises; the stream has ended then too.
        """
        with self._changed:
            self._closing = True
            self._dropped = not flush
            self._changed.notify_all()
        if not flush:
            return
        try:
            while self._thread.is_alive():
                self._thread.join(0.2)
                self._check()
        except BaseException:
            self._dropped = True
            raise
        self._raise_error()

    def _work(self) -> None:
        try:
            while (rows := self._next()) is not None:
                if rows:
                    self._send(rows)
        except _Dropped:
            return
        except Exception as error:
            self._error = error

    def _next(self) -> list[tuple[str, float, int, int]] | None:
        """The metrics to send now; None when there are none and there will be none."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            if not self._closing:
                self._changed.wait_for(lambda: self._closing, INTERVAL)
            if self._dropped or not self._waiting:
                return None
            rows, self._waiting = self._waiting[:MAX_METRICS], self._waiting[MAX_METRICS:]
            return rows

    def _send(self, rows: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        self._runs.log_metrics(self._run_id, [Metric(*row) for row in rows])

    def _stop_if_dropped(self) -> None:
        if self._dropped:
            raise _Dropped

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


class _Dropped(Exception):
    """Nobody waits for these metrics any more."""
