"""Models learnt from tables as MLflow models, written for anyone to load."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tuneloop
from tuneloop.models.loading import KIND_KEY, TABLE_MODEL, TABLES
from tuneloop.relational.model import TableModel

if TYPE_CHECKING:
    import pyarrow as pa

# What the model's code imports, as the package names it.
_CODE = ("errors.py", "ids.py", "relational")
_NEEDS = (
    "ibis-framework",
    "duckdb",
    "lightgbm",
    "numpy",
    "optuna",
    "pandas",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
)
_GRAPH_NEEDS = ("torch", "torch-geometric", "pytorch-frame", "sentence-transformers")


def save_table_model(model: TableModel, folder: Path, example: pa.Table) -> None:
    """Write a model as an MLflow pyfunc that any MLflow client loads: models from code, with its own code beside it.

    Args:
        model: what was learnt.
        folder: not there yet.
        example: a few entities and times, whose predictions need not be known.
    """
    import mlflow.pyfunc

    with tempfile.TemporaryDirectory(prefix="tuneloop-") as name:
        files = Path(name) / TABLE_MODEL
        model.save(files)
        with _code(Path(name)) as code:
            mlflow.pyfunc.save_model(
                str(folder),
                python_model=str(Path(__file__).with_name("table_pyfunc.py")),
                artifacts={TABLE_MODEL: str(files)},
                signature=_signature(model, example),
                input_example=example.to_pandas(),
                code_paths=[str(code)],
                pip_requirements=list(_requirements(model)),
                metadata={KIND_KEY: TABLES},
            )


@contextmanager
def _code(folder: Path) -> Iterator[Path]:
    """A copy of what the model's code imports."""
    package = Path(tuneloop.__file__).parent
    copy = folder / "code" / "tuneloop"
    copy.mkdir(parents=True)
    for name in _CODE:
        if (package / name).is_dir():
            shutil.copytree(package / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(package / name, copy / name)
    (copy / "__init__.py").write_text('"""What a model learnt from tables needs of Tuneloop."""\n')
    yield copy


def _signature(model: TableModel, example: pa.Table) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Object, Property
    from mlflow.types.utils import _infer_schema

    pair = Object([Property("key", DataType.string), Property("score", DataType.double)])
    kinds: dict[str, Any] = {
        "multiclass_classification": DataType.string,
        "multilabel_classification": Array(DataType.string),
        "link_prediction": Array(pair),
        "repeated_link_prediction": Array(pair),
    }
    prediction = ColSpec(kinds.get(model.task.task_type, DataType.double), "prediction")
    return ModelSignature(
        inputs=_infer_schema(example.to_pandas()),
        outputs=Schema([prediction]),
        params=ParamSchema(
            [ParamSpec("dataset", DataType.string, ""), ParamSpec("embeddings", DataType.boolean, False)]
        ),
    )


def _requirements(model: TableModel) -> Iterator[str]:
    graph = any(part.fitted.learner == "gnn" for part in model.parts)
    for name in (*_NEEDS, *(_GRAPH_NEEDS if graph else ())):
        try:
            yield f"{name}=={version(name).partition('+')[0]}"
        except PackageNotFoundError:
            continue
