"""The tables of what users did."""

import sqlalchemy as sa

from tuneloop.database import Micros, OpaqueId, OwnId, Sequence, metadata

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("batch_id", OwnId, nullable=False, unique=True),
    sa.Column("status", sa.String(10), nullable=False),  # collecting | released
    sa.Column("late_events", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", Micros, nullable=False),
    sa.Column("released_at", Micros),
    sa.Column("release_id", OpaqueId, unique=True),
)
# One batch is collecting at any time.
sa.Index(
    "uq_batches_collecting",
    batches.c.status,
    unique=True,
    sqlite_where=batches.c.status == "collecting",
    postgresql_where=batches.c.status == "collecting",
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("session_id", OpaqueId, nullable=False, unique=True),
    sa.Column("batch_id", OwnId, sa.ForeignKey("batches.batch_id"), nullable=False),
    sa.Column("search_query", sa.Text, nullable=False),
    sa.Column("search_results", sa.JSON, nullable=False),  # [{"object_id", "rank"?, "meta"?}], as shown
    sa.Column("search_meta", sa.JSON(none_as_null=True)),
    sa.Column("user_id", OpaqueId, index=True),
    sa.Column("created_at", Micros, nullable=False),
    sa.Column("arrived_at", Micros, nullable=False, index=True),
    sa.Column("is_irrelevant", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("request_hash", sa.String(64), nullable=False),  # of what the client sent, to tell a repeat from a clash
    sa.Index("ix_sessions_batch_id_seq", "batch_id", "seq"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column(
        "session_seq",
        sa.BigInteger,
        sa.ForeignKey("sessions.seq", ondelete="CASCADE"),
        nullable=False,
    ),
    sa.Column("event_id", OpaqueId, nullable=False),
    sa.Column("object_id", OpaqueId, nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("created_at", Micros, nullable=False),
    sa.Column("meta", sa.JSON(none_as_null=True)),
    sa.UniqueConstraint("session_seq", "event_id"),
)
