"""What a task learns from: Parquet files, written once, all that a method may read."""

from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

SESSIONS_SCHEMA = pa.schema(
    [
        ("session_id", pa.string()),
        ("search_query", pa.string()),
        # The results in the order they were shown; rank is the score shown at the time.
        ("results", pa.list_(pa.struct([("object_id", pa.string()), ("rank", pa.float64())]))),
        (
            "events",
            pa.list_(
                pa.struct(
                    [("object_id", pa.string()), ("event_type", pa.string()), ("created_at", pa.timestamp("us", "UTC"))]
                )
            ),
        ),
        ("is_irrelevant", pa.bool_()),
        ("created_at", pa.timestamp("us", "UTC")),
    ]
)
ITEMS_SCHEMA = pa.schema([("object_id", pa.string()), ("text", pa.string())])


@dataclass(frozen=True)
class Snapshot:
    """A snapshot at an fsspec URL: the sessions of a batch with their events, and the texts of the items they show.

    Where the method asks for it (`Method.earlier_sessions`) and there are any, also some sessions of earlier batches.
    """

    url: str

    @property
    def sessions_url(self) -> str:
        """Where the sessions lie."""
        return f"{self.url}/sessions.parquet"

    @property
    def earlier_sessions_url(self) -> str:
        """Where the sessions of earlier batches lie, if there are any."""
        return f"{self.url}/earlier_sessions.parquet"

    @property
    def items_url(self) -> str:
        """Where the item texts lie."""
        return f"{self.url}/items.parquet"

    def sessions(self) -> pa.Table:
        """The sessions in the order they arrived, in `SESSIONS_SCHEMA`."""
        return _read(self.sessions_url)

    @property
    def has_earlier_sessions(self) -> bool:
        """Whether there are sessions of earlier batches; they may all have been forgotten since."""
        filesystem, path = fsspec.core.url_to_fs(self.earlier_sessions_url)
        return bool(filesystem.exists(path))

    def earlier_sessions(self) -> pa.Table:
        """A sample of the sessions of earlier batches, no larger than the batch, likewise."""
        return _read(self.earlier_sessions_url) if self.has_earlier_sessions else SESSIONS_SCHEMA.empty_table()

    def items(self) -> pa.Table:
        """The items that the sessions show and the catalogue knows, in `ITEMS_SCHEMA`."""
        return _read(self.items_url)


def _read(url: str) -> pa.Table:
    with fsspec.open(url, "rb") as stream:
        return pq.read_table(stream)
