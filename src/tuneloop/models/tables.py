"""The table of what Tuneloop's runs stored: the files that inference may load."""

import sqlalchemy as sa

from tuneloop.database import Micros, metadata

stored_models = sa.Table(
    "stored_models",
    metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("files", sa.JSON, nullable=False),  # {path below the model folder: sha256}
    sa.Column("stored_at", Micros, nullable=False),
)
