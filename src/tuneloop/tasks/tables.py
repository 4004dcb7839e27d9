"""The tables of asked-for work."""

import sqlalchemy as sa

from tuneloop.database import Micros, OpaqueId, OwnId, Sequence, metadata

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("task_id", OwnId, nullable=False, unique=True),
    sa.Column("kind", sa.String(40), nullable=False),  # fine_tuning, embed_items, relational, predict
    sa.Column("method", sa.Text),
    sa.Column("batch_id", OwnId, sa.ForeignKey("batches.batch_id")),
    sa.Column("status", sa.String(12), nullable=False, index=True),
    sa.Column("created_at", Micros, nullable=False),
    sa.Column("updated_at", Micros, nullable=False),
    sa.Column("metadata", sa.JSON(none_as_null=True)),
    sa.Column("settings", sa.JSON(none_as_null=True)),
    sa.Column("dataset", sa.JSON(none_as_null=True)),  # the tables that it is about
    sa.Column("idempotency_key", OpaqueId, unique=True),
    sa.Column("request_hash", sa.String(64), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),  # each restart is a new attempt
    sa.Column("asked_at", Micros, nullable=False, index=True),  # the order of work: creation, or the last restart
    sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("progress", sa.JSON(none_as_null=True)),
    sa.Column("detail", sa.Text),
    sa.Column("experiment_id", sa.Text),
    sa.Column("start_run_id", sa.Text),
    sa.Column("best_run_id", sa.Text),
    sa.Column("output", sa.Text),
)

# What tasks print; the lines of one task come in the order of `seq`.
task_log = sa.Table(
    "task_log",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("task_id", OwnId, sa.ForeignKey("tasks.task_id"), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("logged_at", Micros, nullable=False),
    sa.Column("line", sa.Text, nullable=False),
    sa.Index("ix_task_log_task_id_seq", "task_id", "seq"),
)

# Processes that work on tasks; a row whose heartbeat stops is a dead worker.
workers = sa.Table(
    "workers",
    metadata,
    sa.Column("worker_id", sa.String(64), primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_started", sa.Float, nullable=False),  # tells a process from a later one with its pid
    sa.Column("heartbeat_at", Micros, nullable=False),
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("task_id", OwnId, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False, server_default=sa.false()),
    # Counts the erasures since it was begun that its files do not show yet.
    sa.Column("erasures", sa.Integer, nullable=False, server_default="0"),
)
