"""Loading stored models: what a run of ours stored, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from tuneloop.errors import Conflict
from tuneloop.models.encoders import Encoder, load_encoder
from tuneloop.models.registry import ModelRegistry

if TYPE_CHECKING:
    from tuneloop.relational.model import TableModel

# How the description of a model learnt from tables says so.
KIND_KEY, TABLES = "tuneloop.kind", "tables"
# Which of its artifacts it is.
TABLE_MODEL = "table_model"
Loaded: TypeAlias = Union[Encoder, "TableModel"]


def load_model(folder: Path) -> Loaded:
    """The model in the MLflow model `folder`, whose files have been verified.

    Raises:
        Conflict: it is of no kind that is served.
    """
    from mlflow.models import Model

    if (Model.load(str(folder)).metadata or {}).get(KIND_KEY) == TABLES:
        from tuneloop.relational.model import TableModel

        return TableModel.load(folder / "artifacts" / TABLE_MODEL)  # no code of it is run
    return load_encoder(folder)


def load_run(registry: ModelRegistry, run_id: str, folder: Path) -> Loaded:
    """The model that a run stored, downloaded to `folder` and verified.

    Raises:
        NotFound: the run or its model is gone.
        Conflict: no Tuneloop run stored it, its files were changed, or it is of no kind that is served.
    """
    registry.stored.verify(run_id, registry.tracking.download_model(run_id, folder))
    return load_model(folder)


def need_encoder(model: Loaded) -> Encoder:
    """A model that embeds.

    Raises:
        Conflict: it was learnt from tables.
    """
    if not isinstance(model, Encoder):
        raise Conflict("this model was learnt from tables: it predicts, and neither embeds texts nor ranks")
    return model


def need_table_model(model: Loaded) -> TableModel:
    """A model that predicts.

    Raises:
        Conflict: it was learnt from clicks.
    """
    if isinstance(model, Encoder):
        raise Conflict("this model was learnt from clicks: it embeds and ranks, and does not predict")
    return model
