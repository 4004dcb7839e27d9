"""Task tables from a short query: "no purchase in the next 7 days", asked at many moments of the past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tuneloop.errors import Conflict, InvalidInput
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.moments import Moments, known_moments, split_moments
from tuneloop.relational.opening import OpenTables, open_tables
from tuneloop.relational.schema import SPLITS, Duration, LinkTask, NodeTask, Splits, Table
from tuneloop.relational.sources import Sources
from tuneloop.relational.template import TIMES, BadTemplate, Template

if TYPE_CHECKING:
    import pyarrow as pa

AnyTask = TypeVar("AnyTask", NodeTask, LinkTask)
_DURATION: TypeAdapter[timedelta] = TypeAdapter(Duration)
_EXAMPLES = "such as SELECT … FROM timestamps t, customers c WHERE …"


def make_task(
    tables: Sequence[Table],
    task: AnyTask,
    folder: Path | str,
    *,
    every: timedelta | str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    overwrite: bool = False,
    sources: Sources | None = None,
) -> AnyTask:
    """Make the examples of a task by its template, and write them as `train.parquet`, `validation.parquet` and
    `test.parquet`.

    The template is a SELECT in DuckDB's SQL over the tables by name, the table `timestamps` of prediction times, whose
    column is called like the task's `time_column`, and `{horizon}`, an interval. It gives the entity, the time and the
    label (of links the target, or a list of them), each named as the task says:

    >>> template = '''
    ... SELECT t.timestamp, c.customer_id, NOT EXISTS (
    ...     SELECT 1 FROM transactions x WHERE x.customer_id = c.customer_id
    ...     AND x.t_dat > t.timestamp AND x.t_dat <= t.timestamp + {horizon}) AS churn
    ... FROM timestamps t, customers c WHERE EXISTS (
    ...     SELECT 1 FROM transactions x WHERE x.customer_id = c.customer_id AND x.t_dat <= t.timestamp)
    ... '''

    Prediction times lie `every` so far apart, back from the last one whose label is known. The last are the test, those
    before validation, the rest training, and the labels of each split end before the next begins.

    Args:
        tables: the dataset's tables.
        task: with a template, a horizon and a time column.
        folder: where the files are written.
        every: from one prediction time to the next, as "7 days"; by default the horizon.
        start: no prediction time is before it; by default one horizon after the data begin.
        end: no label looks beyond it; by default the last time of the tables that the template reads, the earliest
            of several, without the entity's own.
        overwrite: whether files that are there may be replaced.
        sources: what the tables' sources mean; by default any file.

    Returns:
        The task with the files as its source.

    Raises:
        InvalidInput: a table cannot be read, or the template makes no such task; the message says what to do.
        Conflict: a file is there already.
    """
    dataset = Dataset("made", tables=list(tables), task=task)
    folder = Path(folder)
    there = [path for split in SPLITS if (path := folder / f"{split}.parquet").exists()]
    if there and not overwrite:
        raise Conflict(f"{there[0]} is there already: choose another folder, or pass overwrite=True")
    with open_tables({table.name: table.source for table in tables}, sources or Sources()) as data:
        for name, problem in data.problems.items():
            raise InvalidInput(f"{name} cannot be read: {problem}")
        made = Making(dataset, task, data).make(_span(every), start, end)
    return replace(task, template=None, source=_write(made, folder))


def materialise(dataset: Dataset, data: OpenTables, folder: Path) -> Dataset:
    """The dataset with files of examples in place of its task's template; as it is where it has none.

    Args:
        dataset: tables and a task.
        data: the tables' rows.
        folder: where the files are written; made where it is not there.

    Raises:
        BadTemplate: the template makes no such task.
    """
    task = dataset.task
    if task is None or task.template is None:
        return dataset
    made = Making(dataset, task, data).make()
    return replace(dataset, task=replace(task, template=None, source=_write(made, folder)))


class Making:
    """Makes the examples of a dataset's task by its template."""

    def __init__(self, dataset: Dataset, task: NodeTask | LinkTask, data: OpenTables) -> None:
        if task.template is None or task.horizon is None or task.time_column is None:
            raise InvalidInput(
                f"the task {task.name} has no template: give it a template, a horizon and a time_column",
                field="dataset.task.template",
            )
        self._dataset = dataset
        self._task = task
        self._data = data
        self._horizon = task.horizon
        self._time = task.time_column
        self._template = Template(task.template, time_column=self._time, horizon=self._horizon, data=data)

    def make(
        self, every: timedelta | None = None, start: datetime | None = None, end: datetime | None = None
    ) -> dict[str, pa.Table]:
        """The examples of each split.

        Raises:
            BadTemplate: it makes no such task.
        """
        moments = self._moments(every or self._horizon, start, end)
        return {split: self._examples(split, getattr(moments, split)) for split in SPLITS}

    def _moments(self, every: timedelta, start: datetime | None, end: datetime | None) -> Moments:
        first, last, latest = self._known()
        last = last if end is None else min(end, latest)
        known = known_moments(first, last, self._horizon, every=every, start=start)
        examples = len(self._ordered(self._template.run(known[:1]))) if known else 0
        moments = split_moments(known, self._horizon, examples)
        if moments is None:
            raise BadTemplate(
                f"the data go from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}, which is too short for labels that "
                f"look {_words(self._horizon)} ahead: {len(known)} prediction times",
                "choose a shorter horizon, or bring data of at least four horizons",
            )
        return moments

    def _known(self) -> tuple[datetime, datetime, datetime]:
        """From when on the tables that the template reads have rows, and to when all do, and any."""
        task = self._task
        entities = {task.entity.table, task.target_entity.table}
        timed = [name for name in self._template.reads if self._dataset.table(name).time_column is not None]
        if not timed:
            raise BadTemplate(
                "no table that it reads has a time_column, so nothing says how far the data go",
                "give the tables whose rows it counts their time_column",
            )
        # An entity's own row tells when it came, not how long what it did was recorded.
        spans = [self._span_of(name) for name in timed if name not in entities] or list(map(self._span_of, timed))
        ends = [last for _, last in spans]
        return min(first for first, _ in spans), min(ends), max(ends)

    def _span_of(self, name: str) -> tuple[datetime, datetime]:
        time = self._data[name][self._dataset.table(name).time_column].cast("timestamp")
        found = self._data[name].aggregate(first=time.min(), last=time.max()).to_pyarrow().to_pylist()[0]
        if found["last"] is None:
            raise BadTemplate(f"{name}, which it reads, has no row with a time", f"fill {name}")
        return found["first"].replace(tzinfo=None), found["last"].replace(tzinfo=None)

    # -- the examples

    def _examples(self, split: str, times: Sequence[datetime]) -> pa.Table:
        rows = self._ordered(self._template.run(times))
        if not len(rows):
            raise BadTemplate(
                f"gives no example for {split}, from {times[0]:%Y-%m-%d %H:%M} to {times[-1]:%Y-%m-%d %H:%M}",
                f"loosen its WHERE, {_EXAMPLES}",
            )
        self._check_values(rows, set(times))
        if isinstance(self._task, NodeTask):
            self._check_labels(split, rows, self._task)
        return rows

    def _ordered(self, rows: pa.Table) -> pa.Table:
        """The columns as the task calls them, sorted by time and entity."""
        import pyarrow as pa

        wanted = {
            self._task.entity.column: "the entity",
            self._time: "the time",
            self._task.label_column: "the label" if isinstance(self._task, NodeTask) else "the target",
        }
        found = {name.lower(): name for name in rows.column_names}
        missing = [f"{name} ({what})" for name, what in wanted.items() if name.lower() not in found]
        extra = sorted(set(found) - {name.lower() for name in wanted})
        if missing or extra or len(found) < len(rows.column_names):
            said = f"and not {', '.join(missing)}" if missing else f"which is more than {', '.join(wanted)}"
            raise BadTemplate(
                f"gives {', '.join(rows.column_names)}, {said}",
                "select exactly these: " + ", ".join(f"… AS {name}" for name in wanted),
                column=missing[0].partition(" ")[0] if missing else None,
            )
        rows = pa.table({name: rows[found[name.lower()]] for name in wanted})
        time = rows[self._time]
        if not (pa.types.is_timestamp(time.type) or pa.types.is_date(time.type)):
            raise BadTemplate(
                f"gives a time of the type {time.type}", f"select {TIMES}.{self._time} as it is", column=self._time
            )
        at = rows.column_names.index(self._time)
        rows = rows.set_column(at, self._time, time.cast(pa.timestamp("us")))
        order = [self._time, self._task.entity.column]
        if not pa.types.is_nested(rows[self._task.label_column].type):
            order.append(self._task.label_column)
        return rows.sort_by([(name, "ascending") for name in order])

    def _check_values(self, rows: pa.Table, times: set[datetime]) -> None:
        for name in rows.column_names:
            if nulls := rows[name].null_count:
                raise BadTemplate(
                    f"gives {nulls:,} of {len(rows):,} examples without {name}",
                    f"leave them out with WHERE … IS NOT NULL, or give them a value with coalesce({name}, …)",
                    column=name,
                )
        odd = set(rows[self._time].unique().to_pylist()) - times
        if odd:
            raise BadTemplate(
                f"gives the time {min(odd)}, which is none of {TIMES}",
                f"select {TIMES}.{self._time} as it is: the splits and what may be seen go by it",
                column=self._time,
            )

    def _check_labels(self, split: str, rows: pa.Table, task: NodeTask) -> None:
        import pyarrow.compute as pc

        entity, label = task.entity.column, task.label_column
        counts = rows.group_by([self._time, entity]).aggregate([([], "count_all")])
        double = counts.filter(pc.greater(counts["count_all"], 1))
        if len(double):
            one = double.slice(0, 1).to_pylist()[0]
            raise BadTemplate(
                f"gives {one['count_all']} rows for {entity} {one[entity]!r} at {one[self._time]}",
                "give one: GROUP BY the entity and the time, or use EXISTS instead of a join",
                column=entity,
            )
        if task.task_type in ("regression", "multilabel_classification"):
            return
        values = rows[label].unique()
        if len(values) == 1 and split != "test":  # nothing can be learnt or chosen by
            raise BadTemplate(
                f"gives every example of {split} the label {values[0].as_py()!r}",
                "check its conditions on time, or choose another horizon",
                column=label,
            )


def _write(made: dict[str, pa.Table], folder: Path) -> Splits:
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for split, rows in made.items():
        paths[split] = str(folder / f"{split}.parquet")
        pq.write_table(rows, paths[split])
    return Splits(**paths)


def _span(value: Any) -> timedelta | None:
    try:
        return None if value is None else _DURATION.validate_python(value)
    except ValidationError as error:
        raise InvalidInput(f"every: {error.errors()[0]['msg']}", field="every") from None


def _words(horizon: timedelta) -> str:
    return str(_DURATION.dump_python(horizon, mode="json"))
