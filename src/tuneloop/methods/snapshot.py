"""What a task learns from: two Parquet files, written once, all that a method may read."""

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
    """A snapshot at an fsspec URL: the sessions of a batch with their events, and the texts of the items they show."""

    url: str

    @property
    def sessions_url(self) -> str:
        """Where the sessions lie."""
        return f"{self.url}/sessions.parquet"

    @property
    def items_url(self) -> str:
        """Where the item texts lie."""
        return f"{self.url}/items.parquet"

    def sessions(self) -> pa.Table:
        """The sessions in the order they arrived, in `SESSIONS_SCHEMA`."""
        return _read(self.sessions_url)

    def items(self) -> pa.Table:
        """The items that the sessions show and the catalogue knows, in `ITEMS_SCHEMA`."""
        return _read(self.items_url)


def _read(url: str) -> pa.Table:
    with fsspec.open(url, "rb") as stream:
        return pq.read_table(stream)
