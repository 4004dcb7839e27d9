"""A model learnt from tables as an MLflow pyfunc, which MLflow loads by running this file (models from code).

It needs no Tuneloop service: the tables are read where they were when it was learnt, or where `params` say.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from tuneloop.relational.dataset import Dataset
from tuneloop.relational.model import TableModel
from tuneloop.relational.sources import Sources


class TablePredictor(PythonModel):
    """Entity keys and times to predictions."""

    def load_context(self, context: Any) -> None:
        """Read the model's own files: JSON, LightGBM text, safetensors."""
        self._model = TableModel.load(Path(context.artifacts["table_model"]))

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """A data frame: the input with `prediction`, and `probabilities` of classes.

        `params`: `dataset`, the document of a dataset as JSON, or the path of its YAML or JSON file; `embeddings`.
        """
        given = (params or {}).get("dataset") or None
        dataset = None
        if given is not None:
            dataset = Dataset.parse(json.loads(given)) if given.lstrip().startswith("{") else Dataset.load(given)
        found = self._model.predict(
            pa.Table.from_pandas(model_input, preserve_index=False),
            sources=Sources(),
            dataset=dataset,
            embeddings=bool((params or {}).get("embeddings")),
        )
        return found.to_pandas()


set_model(TablePredictor())
