"""Tasks about tables: the dataset they are about, and what they print."""

import sqlalchemy as sa
from alembic import op

from tuneloop.database import Micros, OwnId, Sequence

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the log of tasks, and a task's dataset."""
    op.add_column("tasks", sa.Column("dataset", sa.JSON))
    op.create_table(
        "task_log",
        sa.Column("seq", Sequence, autoincrement=True, nullable=False),
        sa.Column("task_id", OwnId, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("logged_at", Micros, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_task_log"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.task_id"], name="fk_task_log_task_id"),
    )
    op.create_index("ix_task_log_task_id_seq", "task_log", ["task_id", "seq"])
