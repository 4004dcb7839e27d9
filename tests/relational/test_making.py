"""Examples made by a query are what plain Python would make of the rows, look at nothing beyond the data's end, and
are split by time."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.tables import shop_document, shop_tables, write_shop
from tuneloop.errors import Conflict, InvalidInput
from tuneloop.relational import Dataset, ForeignKey, LinkTask, NodeTask, Table, make_task
from tuneloop.relational.making import materialise
from tuneloop.relational.moments import known_moments, split_moments
from tuneloop.relational.opening import open_tables
from tuneloop.relational.sources import Sources
from tuneloop.relational.validation import validate

CUSTOMER = ForeignKey("customer_id", link_to="customers.customer_id")
ARTICLE = ForeignKey("article_id", link_to="articles.article_id")
CHURN = """
SELECT t.timestamp, c.customer_id, NOT EXISTS (
    SELECT 1 FROM transactions x WHERE x.customer_id = c.customer_id
    AND x.t_dat > t.timestamp AND x.t_dat <= t.timestamp + {horizon}) AS churn
FROM timestamps t, customers c WHERE EXISTS (
    SELECT 1 FROM transactions x WHERE x.customer_id = c.customer_id AND x.t_dat <= t.timestamp)
"""
SPENT = """
WITH sums AS (
    SELECT timestamp, customer_id, sum(price) AS spent FROM timestamps, transactions
    WHERE t_dat > timestamp AND t_dat <= timestamp + {horizon} GROUP BY ALL)
SELECT * FROM sums;
"""
BOUGHT = """
SELECT t.timestamp, x.customer_id, list(DISTINCT x.article_id) AS article_id
FROM timestamps t JOIN transactions x ON x.t_dat > t.timestamp AND x.t_dat <= t.timestamp + {horizon} GROUP BY ALL
"""


def churn_task(template: str = CHURN, horizon: str = "7 days", **changes: Any) -> NodeTask:
    values = {"task_type": "binary_classification", "label_column": "churn", "time_column": "timestamp"}
    return NodeTask("churn", target_entity=CUSTOMER, horizon=horizon, template=template, **values | changes)


@pytest.fixture
def tables(tmp_path: Path) -> list[Table]:
    return Dataset.parse(write_shop(tmp_path)).tables


def read(task: Any) -> dict[str, list[dict[str, Any]]]:
    return {split: pq.read_table(path).to_pylist() for split, path in task.source.items()}


# -- which moments

STARTS = st.datetimes(datetime(2000, 1, 1), datetime(2020, 1, 1))
HORIZONS = st.timedeltas(timedelta(minutes=1), timedelta(days=40))


@given(
    first=STARTS,
    span=st.timedeltas(timedelta(), timedelta(days=400)),
    horizon=HORIZONS,
    every=HORIZONS,
    examples=st.integers(0, 100_000),
)
def test_labels_end_before_the_next_split_begins_and_before_the_data_do(
    first: datetime, span: timedelta, horizon: timedelta, every: timedelta, examples: int
) -> None:
    last = first + span
    every = max(every, span / 500)  # no more moments than a test needs
    known = known_moments(first, last, horizon, every=every)
    assert all(first + horizon <= time and time + horizon <= last for time in known)
    moments = split_moments(known, horizon, examples)
    if moments is None:
        assert span < 5 * horizon + 3 * every + timedelta(days=1)
        return
    for earlier, later in ((moments.train, moments.validation), (moments.validation, moments.test)):
        assert earlier[-1] + horizon <= later[0]
        assert list(earlier) == sorted(set(earlier))
    assert len(moments.test) * examples < 1000 + examples or len(moments.test) == 1


def test_moments_are_whole_days_where_the_horizon_is() -> None:
    first, last = datetime(2024, 1, 1, 9, 30), datetime(2024, 3, 1, 17, 45)
    day, hours = timedelta(days=1), timedelta(hours=6)
    assert known_moments(first, last, 7 * day, every=7 * day)[0] == datetime(2024, 2, 23)
    assert known_moments(first, last, hours, every=hours)[0] == datetime(2024, 3, 1, 11)


# -- what is made


@settings(max_examples=8, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 100), st.integers(0, 20)), min_size=25, max_size=60),
    horizon=st.sampled_from([4, 7, 10]),
)
def test_labels_are_those_of_plain_python(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]], horizon: int
) -> None:
    folder = tmp_path_factory.mktemp("shop")
    start = datetime(2024, 1, 1)
    # Somebody always buys and somebody never does, so that both labels are there.
    bought = [(start + timedelta(days=day), f"c{who}", what) for who, day, what in rows]
    bought += [(start + timedelta(days=day), "c5", 0) for day in range(101)]
    bought += [(start, "c6", 0)]
    write_shop(
        folder,
        transactions=lambda _: {
            "customer_id": [who for _, who, _ in bought],
            "article_id": [what for _, _, what in bought],
            "t_dat": [when for when, _, _ in bought],
            "price": [1.5] * len(bought),
        },
    )
    tables = Dataset.parse(shop_document(folder)).tables
    span = timedelta(days=horizon)
    made = read(make_task(tables, churn_task(horizon=f"{horizon} days"), folder / "churn"))
    links = make_task(
        tables,
        LinkTask(
            "next", task_type="link_prediction", source_entity=CUSTOMER, target_entity=ARTICLE, template=BOUGHT,
            time_column="timestamp", horizon=f"{horizon} days",
        ),
        folder / "next",
    )  # fmt: skip
    for split, examples in made.items():
        times = {each["timestamp"] for each in examples}
        assert {(each["customer_id"], each["timestamp"]): each["churn"] for each in examples} == {
            (who, time): not any(w == who and time < when <= time + span for when, w, _ in bought)
            for time in times
            for who in {who for when, who, _ in bought if when <= time}
        }
        assert max(times) + span <= max(when for when, _, _ in bought)
        for each in read(links)[split]:
            time = each["timestamp"]
            expected = {a for when, w, a in bought if w == each["customer_id"] and time < when <= time + span}
            assert set(each["article_id"]) == expected
    assert max(e["timestamp"] for e in made["train"]) + span <= min(e["timestamp"] for e in made["validation"])
    assert max(e["timestamp"] for e in made["validation"]) + span <= min(e["timestamp"] for e in made["test"])


def test_a_made_task_is_one_that_validation_takes(tables: list[Table], tmp_path: Path) -> None:
    task = make_task(tables, churn_task(), tmp_path / "churn")
    assert task.template is None and task.source is not None
    assert validate(Dataset("shop", tables=tables, task=task), Sources()) == []
    spent = churn_task(SPENT, task_type="regression", label_column="spent")
    assert validate(Dataset("shop", tables=tables, task=spent), Sources(roots=[tmp_path])) == []


def test_a_document_with_a_template_becomes_one_with_files(tables: list[Table], tmp_path: Path) -> None:
    dataset = Dataset("shop", tables=tables, task=churn_task())
    with open_tables({table.name: table.source for table in tables}, Sources()) as data:
        made = materialise(dataset, data, tmp_path / "work")
        assert materialise(made, data, tmp_path / "work") is made
    assert made.task is not None and made.task.source is not None
    assert read(made.task) == read(make_task(tables, churn_task(), tmp_path / "again"))


def test_times_can_lie_closer_and_begin_and_end_elsewhere(tables: list[Table], tmp_path: Path) -> None:
    start, end = datetime(2024, 5, 1), datetime(2024, 9, 1)
    made = read(make_task(tables, churn_task(), tmp_path / "churn", every="1 day", start=start, end=end))
    times = sorted({each["timestamp"] for split in made.values() for each in split})
    assert times[0] == start and times[-1] == end - timedelta(days=7)
    gaps = {later - earlier for earlier, later in pairwise(times)}
    assert gaps == {timedelta(days=1), timedelta(days=7)}  # a horizon apart only between splits


def test_a_file_that_is_there_stays(tables: list[Table], tmp_path: Path) -> None:
    make_task(tables, churn_task(), tmp_path / "churn")
    with pytest.raises(Conflict, match="overwrite=True"):
        make_task(tables, churn_task(), tmp_path / "churn")
    make_task(tables, churn_task(), tmp_path / "churn", overwrite=True)


IN_THE_TEMPLATE = [
    (CHURN.replace("t_dat >", "t_date >"), None, "reads x.t_date, and transactions has no such column"),
    (CHURN.replace("AS churn", "AS churned"), "churn", "and not churn (the label)"),
    (CHURN.replace("c.customer_id, NOT", "c.customer_id, c.age, NOT"), None, "more than customer_id"),
    (CHURN.replace("transactions", "sales"), None, "reads sales, which is no table of the dataset"),
    (CHURN.replace("customers c", "'/etc/passwd' c"), None, "no table of the dataset"),
    (CHURN.replace("customers c", "read_csv('/etc/passwd') c"), None, "reads READ_CSV"),
    (CHURN.replace("customers c", "duckdb_settings() c"), None, "reads DUCKDB_SETTINGS"),
    ("DROP TABLE customers", None, "is not one SELECT"),
    (CHURN + "; SELECT 1", None, "is not one SELECT"),
    ("SELEC 1", None, "is no SQL"),
    (CHURN.replace("FROM timestamps t", "FROM timestamps t WHERE nowhere = 1"), None, ""),
    (CHURN.replace("WHERE EXISTS", "WHERE FALSE AND EXISTS"), None, "gives no example for train"),
    (CHURN.replace("NOT EXISTS", "TRUE OR EXISTS"), "churn", "gives every example of train the label True"),
    (CHURN.replace("t.timestamp, c", "t.timestamp + {horizon} AS timestamp, c"), "timestamp", "is none of timestamps"),
    (CHURN.replace("NOT EXISTS", "nullif(c.age > 30, FALSE) AND EXISTS"), "churn", "examples without churn"),
    (
        "SELECT timestamp, customer_id, price > 20 AS churn FROM timestamps, transactions WHERE t_dat > timestamp",
        "customer_id",
        "rows for customer_id",
    ),
    ("SELECT timestamp, customer_id, age > 30 AS churn FROM timestamps, customers", None, "has a time_column"),
]


@pytest.mark.parametrize(("template", "column", "said"), IN_THE_TEMPLATE)
def test_mistakes_in_a_template(tmp_path: Path, template: str, column: str | None, said: str) -> None:
    tables = Dataset.parse(write_shop(tmp_path)).tables
    found = validate(Dataset("shop", tables=tables, task=churn_task(template)), Sources(roots=[tmp_path]))
    assert [(each.table, each.column) for each in found] == [("task.template", column)]
    assert said in found[0].problem and found[0].fix
    with pytest.raises(InvalidInput, match="the template"):
        make_task(tables, churn_task(template), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_data_too_short_for_the_horizon(tables: list[Table], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="too short for labels that look 90 days ahead"):
        make_task(tables, churn_task(horizon="90 days"), tmp_path / "churn")


def test_no_label_looks_beyond_the_table_that_ends_first(tmp_path: Path) -> None:
    document = write_shop(tmp_path)
    future = {"customer_id": ["c1"], "visited": [datetime(2030, 1, 1)]}
    past = {"customer_id": ["c1", "c2"], "visited": [datetime(2024, 1, 5), datetime(2024, 6, 1)]}
    link = [{"column": "customer_id", "link_to": "customers.customer_id"}]
    document["tables"].append(
        {"name": "visits", "source": "", "time_column": "visited", "candidate_keys": [], "foreign_keys": link}
    )
    template = CHURN + " AND (SELECT count(*) FROM visits) > 0"
    for rows, end in ((future, datetime(2024, 10, 26)), (past, datetime(2024, 6, 1))):
        pq.write_table(pa.table(rows), tmp_path / "visits.parquet")
        document["tables"][-1]["source"] = str(tmp_path / "visits.parquet")
        made = make_task(Dataset.parse(document).tables, churn_task(template), tmp_path / "churn", overwrite=True)
        latest = max(each["timestamp"] for each in read(made)["test"]) + timedelta(days=7)
        assert end - timedelta(days=1) < latest <= end


def test_a_database_makes_the_same_examples(tables: list[Table], tmp_path: Path, postgresql_url: Any) -> None:
    url = postgresql_url()
    engine = ibis.connect(url)
    for name in ("customers", "articles", "transactions"):
        rows = pa.table(shop_tables()[name])
        engine.create_table(name, rows.rename_columns([each.replace("t_dat", "T_dat") for each in rows.column_names]))
    engine.disconnect()
    there = [
        replace(table, source=f"{url}#{table.name}", time_column=table.time_column and "T_dat") for table in tables
    ]
    assert read(make_task(there, churn_task(), tmp_path / "there")) == read(
        make_task(tables, churn_task(), tmp_path / "here")
    )
    with pytest.raises(InvalidInput, match="pg_sleep"):
        make_task(there, churn_task(CHURN + " AND pg_sleep(1) IS NOT NULL"), tmp_path / "slow")
