"""The table of what can be found."""

import sqlalchemy as sa

from tuneloop.database import Micros, OpaqueId, metadata

items = sa.Table(
    "items",
    metadata,
    sa.Column("object_id", OpaqueId, primary_key=True),
    sa.Column("text", sa.Text),
    sa.Column("fields", sa.JSON(none_as_null=True)),
    sa.Column("updated_at", Micros, nullable=False),
)
