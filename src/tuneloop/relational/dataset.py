"""Tables and a task to learn from them: a document, the same in Python, JSON and YAML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from rich.console import Console

from tuneloop.errors import InvalidInput
from tuneloop.relational import describe, picture
from tuneloop.relational.schema import STRICT, Name, Table, Task
from tuneloop.relational.sources import Sources, is_path, split_path


@dataclass(frozen=True, config=STRICT)
class Dataset:
    """Tables, and a task to learn from them.

    >>> shop = Dataset("shop", tables=[Table("customers", source="customers.parquet", candidate_keys=["customer_id"])])
    >>> shop.table("customers").keys
    ('customer_id',)
    """

    name: Name
    tables: Annotated[list[Table], Field(min_length=1, max_length=500)] = field(kw_only=True)
    task: Task | None = field(default=None, kw_only=True)

    @classmethod
    def parse(cls, document: Any) -> Dataset:
        """A dataset from its document, as it is in JSON.

        Raises:
            InvalidInput: it is no such document; the message names each place.
        """
        try:
            return _DATASET.validate_python(document)
        except ValidationError as error:
            places = (f"{'.'.join(map(str, each['loc'])) or 'the document'}: {each['msg']}" for each in error.errors())
            raise InvalidInput("this describes no dataset: " + "; ".join(places), field="dataset") from None

    @classmethod
    def load(cls, path: Path | str) -> Dataset:
        """A dataset from a YAML or JSON file. Relative paths in it start at the file's folder.

        Raises:
            InvalidInput: there is no such file, or it describes no dataset.
        """
        path = Path(path)
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{path} cannot be read: {error}", field="dataset") from None
        except yaml.YAMLError as error:
            raise InvalidInput(f"{path} is neither YAML nor JSON: {error}", field="dataset") from None
        return cls.parse(document).map_sources(lambda source: _from_folder(source, path.parent))

    def save(self, path: Path | str) -> None:
        """Write it as YAML."""
        Path(path).write_text(
            yaml.safe_dump(self.document(), sort_keys=False, allow_unicode=True, width=120), encoding="utf-8"
        )

    def document(self) -> dict[str, Any]:
        """It as JSON values, without what has its default."""
        found: dict[str, Any] = _DATASET.dump_python(self, mode="json", exclude_none=True, exclude_defaults=True)
        return found

    def map_sources(self, change: Callable[[str], str]) -> Dataset:
        """The same with each source replaced by what `change` gives for it."""
        document = self.document()
        for table in document["tables"]:
            table["source"] = change(table["source"])
        if sources := document.get("task", {}).get("source"):
            document["task"]["source"] = {name: change(source) for name, source in sources.items()}
        return self.parse(document)

    def table(self, name: str) -> Table:
        """The table of this name.

        Raises:
            InvalidInput: there is none.
        """
        for table in self.tables:
            if table.name == name:
                return table
        raise InvalidInput(f"the dataset has no table {name!r}: {', '.join(each.name for each in self.tables)}")

    def show(self) -> None:
        """Print what the tables hold: columns, types, keys, nulls and samples, and the splits of the task.

        Raises:
            InvalidInput: a table cannot be read, or the extra `tables` is not installed.
        """
        describe.show(self.tables, self.task, Sources(), Console())

    def visualize(self, path: Path | str) -> None:
        """Draw the tables with their columns, types and keys, as SVG.

        Raises:
            InvalidInput: a table cannot be read, or the extra `tables` is not installed.
        """
        drawn = picture.draw(self.name, self.tables, self.task, describe.types(self.tables, Sources()))
        Path(path).write_text(drawn, encoding="utf-8")

    @property
    def experiment(self) -> str:
        """The name of the MLflow experiment of its task: `shop/binary_classification/churn`.

        Raises:
            InvalidInput: it has no task.
        """
        if self.task is None:
            raise InvalidInput("this dataset has no task: say what to predict", field="dataset.task")
        return f"{self.name}/{self.task.task_type}/{self.task.name}"


_DATASET = TypeAdapter(Dataset)


def _from_folder(source: str, folder: Path) -> str:
    """A source as seen from elsewhere than the folder of its document."""
    if not is_path(source):
        return source
    path, table = split_path(source)
    return f"{folder / path}{table}"
