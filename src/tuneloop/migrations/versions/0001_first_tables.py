"""The first tables: feedback, catalogue, tasks, stored models."""

import sqlalchemy as sa
from alembic import op

from tuneloop.database import Micros, OpaqueId, OwnId, Sequence

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    _feedback()
    _catalog()
    _tasks()
    _models()


def _feedback() -> None:
    op.create_table(
        "batches",
        sa.Column("seq", Sequence, autoincrement=True, nullable=False),
        sa.Column("batch_id", OwnId, nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("late_events", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", Micros, nullable=False),
        sa.Column("released_at", Micros),
        sa.Column("release_id", OpaqueId),
        sa.PrimaryKeyConstraint("seq", name="pk_batches"),
        sa.UniqueConstraint("batch_id", name="uq_batches_batch_id"),
        sa.UniqueConstraint("release_id", name="uq_batches_release_id"),
    )
    collecting = sa.text("status = 'collecting'")
    op.create_index(
        "uq_batches_collecting",
        "batches",
        ["status"],
        unique=True,
        sqlite_where=collecting,
        postgresql_where=collecting,
    )
    op.create_table(
        "sessions",
        sa.Column("seq", Sequence, autoincrement=True, nullable=False),
        sa.Column("session_id", OpaqueId, nullable=False),
        sa.Column("batch_id", OwnId, nullable=False),
        sa.Column("search_query", sa.Text, nullable=False),
        sa.Column("search_results", sa.JSON, nullable=False),
        sa.Column("search_meta", sa.JSON),
        sa.Column("user_id", OpaqueId),
        sa.Column("created_at", Micros, nullable=False),
        sa.Column("arrived_at", Micros, nullable=False),
        sa.Column("is_irrelevant", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_sessions"),
        sa.UniqueConstraint("session_id", name="uq_sessions_session_id"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.batch_id"], name="fk_sessions_batch_id"),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_index("ix_sessions_arrived_at", "sessions", ["arrived_at"])
    op.create_index("ix_sessions_batch_id_seq", "sessions", ["batch_id", "seq"])
    op.create_table(
        "events",
        sa.Column("seq", Sequence, autoincrement=True, nullable=False),
        sa.Column("session_seq", sa.BigInteger, nullable=False),
        sa.Column("event_id", OpaqueId, nullable=False),
        sa.Column("object_id", OpaqueId, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("created_at", Micros, nullable=False),
        sa.Column("meta", sa.JSON),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sa.UniqueConstraint("session_seq", "event_id", name="uq_events_session_seq_event_id"),
        sa.ForeignKeyConstraint(["session_seq"], ["sessions.seq"], name="fk_events_session_seq", ondelete="CASCADE"),
    )


def _catalog() -> None:
    op.create_table(
        "items",
        sa.Column("object_id", OpaqueId, nullable=False),
        sa.Column("text", sa.Text),
        sa.Column("fields", sa.JSON),
        sa.Column("updated_at", Micros, nullable=False),
        sa.PrimaryKeyConstraint("object_id", name="pk_items"),
    )


def _tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("seq", Sequence, autoincrement=True, nullable=False),
        sa.Column("task_id", OwnId, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("method", sa.Text),
        sa.Column("batch_id", OwnId),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("created_at", Micros, nullable=False),
        sa.Column("updated_at", Micros, nullable=False),
        sa.Column("metadata", sa.JSON),
        sa.Column("settings", sa.JSON),
        sa.Column("idempotency_key", OpaqueId),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
        sa.Column("asked_at", Micros, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("progress", sa.JSON),
        sa.Column("detail", sa.Text),
        sa.Column("experiment_id", sa.Text),
        sa.Column("start_run_id", sa.Text),
        sa.Column("best_run_id", sa.Text),
        sa.Column("output", sa.Text),
        sa.PrimaryKeyConstraint("seq", name="pk_tasks"),
        sa.UniqueConstraint("task_id", name="uq_tasks_task_id"),
        sa.UniqueConstraint("idempotency_key", name="uq_tasks_idempotency_key"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.batch_id"], name="fk_tasks_batch_id"),
    )
    op.create_index("ix_tasks_status", "tasks", ["status"])
    op.create_index("ix_tasks_asked_at", "tasks", ["asked_at"])
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.String(64), nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("process_started", sa.Float, nullable=False),
        sa.Column("heartbeat_at", Micros, nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name="pk_workers"),
    )
    op.create_table(
        "snapshots",
        sa.Column("task_id", OwnId, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("erasures", sa.Integer, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("task_id", name="pk_snapshots"),
    )


def _models() -> None:
    op.create_table(
        "stored_models",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("stored_at", Micros, nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_stored_models"),
    )
