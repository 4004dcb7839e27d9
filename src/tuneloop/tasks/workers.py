"""Which worker processes are alive: each keeps a row and gives signs of life in it."""

import os
import socket
from typing import Any

import psutil
import sqlalchemy as sa

from tuneloop.ids import now_micros
from tuneloop.tasks.tables import workers

HEARTBEAT_SECONDS = 5
# A worker on another machine counts as dead after this long; one on this machine as soon as its process is gone.
DEAD_AFTER_SECONDS = 60


def register(connection: sa.Connection, worker_id: str) -> None:
    """Give this process a row."""
    connection.execute(
        sa.insert(workers).values(
            worker_id=worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            heartbeat_at=now_micros(),
        )
    )


def heartbeat(connection: sa.Connection, worker_id: str) -> bool:
    """Give a sign of life; False when another worker declared this one dead."""
    statement = sa.update(workers).where(workers.c.worker_id == worker_id).values(heartbeat_at=now_micros())
    return connection.execute(statement).rowcount > 0


def remove(connection: sa.Connection, worker_id: str) -> None:
    """Take a worker's row away."""
    connection.execute(sa.delete(workers).where(workers.c.worker_id == worker_id))


def live_workers(connection: sa.Connection) -> int:
    """The number of workers that are alive."""
    return sum(_alive(row) for row in connection.execute(sa.select(workers)))


def dead_workers(connection: sa.Connection) -> list[str]:
    """The ids of workers that are gone."""
    return [row.worker_id for row in connection.execute(sa.select(workers)) if not _alive(row)]


def _alive(row: sa.Row[Any]) -> bool:
    if now_micros() - row.heartbeat_at > DEAD_AFTER_SECONDS * 1_000_000:
        return False
    if row.host != socket.gethostname():
        return True
    try:
        process = psutil.Process(row.pid)
        return abs(process.create_time() - row.process_started) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
