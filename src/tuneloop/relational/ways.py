"""How rows of tables belong to an entity: along one key, or along two through what the entity was last linked to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tuneloop.relational.schema import ForeignKey, Table


@dataclass(frozen=True)
class Step:
    """From an entity to one that it is linked to: by its own row, or by its last row in another table.

    Attributes:
        table: where the link stands.
        column: which of its columns holds the entity; None where the row is the entity's own.
        link: its foreign key to the other entity.
    """

    table: str
    column: str | None
    link: ForeignKey


@dataclass(frozen=True)
class Way:
    """The rows of a table that belong to an entity.

    Attributes:
        table: whose rows.
        column: which of its columns holds the entity, or the one that the step leads to; None for all rows.
        step: None for rows that link to the entity itself.
    """

    table: str
    column: str | None
    step: Step | None = None

    @property
    def shared(self) -> bool:
        """Whether several examples meet the same rows."""
        return self.step is not None or self.column is None

    @property
    def words(self) -> str:
        """It as a person would say it: "through results of the last constructorId"."""
        if self.column is None:
            return f"in all of {self.table}"
        if self.step is None:
            return f"through {self.table}"
        return f"through {self.table} of the last {self.step.link.column} of {self.step.table}"


def find_ways(tables: Sequence[Table], entity: ForeignKey, hops: int = 2) -> list[Way]:
    """All ways of up to so many keys, the shorter first, in the order of the tables."""
    near = [Way(table.name, key.column) for table, key in _links_to(tables, entity.table, entity.key)]
    if hops < 2:
        return near
    by_name = {table.name: table for table in tables}
    steps = [Step(entity.table, None, key) for key in by_name[entity.table].foreign_keys]
    steps += [
        Step(way.table, way.column, key)
        for way in near
        for key in by_name[way.table].foreign_keys
        if key.column != way.column
    ]
    far = [
        Way(table.name, key.column, step)
        for step in steps
        for table, key in _links_to(tables, step.link.table, step.link.key)
        # What leads back to the entity over the same rows says nothing new.
        if not (step.column is None and table.name == entity.table)
    ]
    return near + far


def _links_to(tables: Sequence[Table], name: str, key: str) -> Iterator[tuple[Table, ForeignKey]]:
    for table in tables:
        for link in table.foreign_keys:
            if (link.table, link.key) == (name, key):
                yield table, link
