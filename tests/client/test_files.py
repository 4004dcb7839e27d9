"""Files of records: what they are is found in them."""

import gzip
import io
import json
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tuneloop.client import ClientError
from tuneloop.client.files import open_records, read_json

SESSIONS = [
    {"session_id": f"s{n}", "search_query": "red", "search_results": [{"object_id": "a"}, {"object_id": "b"}]}
    for n in range(120)
]
UBI = [{"index": {"_index": "ubi_queries"}}, {"query_id": "q", "user_query": "red", "query_response_hit_ids": ["a"]}]


def write(path, records, *, end="\n", pack=lambda data: data):
    path.write_bytes(pack(end.join(json.dumps(record) for record in records).encode()))
    return path


def read(path):
    with open_records(path) as records:
        return records.format, [json.loads(line) for line in records.lines]


@pytest.mark.parametrize("name", ["plain.jsonl", "packed.jsonl.gz", "no_ending"])
def test_lines_plain_and_packed(tmp_path, name):
    pack = gzip.compress if name != "plain.jsonl" else lambda data: data
    assert read(write(tmp_path / name, SESSIONS, pack=pack)) == ("tuneloop", SESSIONS)


def test_windows_line_ends_a_byte_order_mark_and_blank_lines(tmp_path):
    file = write(tmp_path / "f", SESSIONS, end="\r\n\r\n", pack=lambda data: b"\xef\xbb\xbf" + data)
    with open_records(file) as records:
        lines = list(records.lines)
    assert [json.loads(line) for line in lines if line] == SESSIONS
    assert len(lines) == 2 * len(SESSIONS) - 1  # blank lines keep the numbers of the others right


def test_ubi_is_recognised(tmp_path):
    assert read(write(tmp_path / "f", UBI)) == ("ubi", UBI)
    events = [{"action_name": "click", "query_id": "q"}]
    assert read(write(tmp_path / "f", events))[0] == "ubi"
    assert read(write(tmp_path / "f", [{"object_id": "a", "text": "x"}]))[0] == "tuneloop"
    assert read(write(tmp_path / "f", [])) == ("tuneloop", [])


def test_the_fraction_grows_to_one(tmp_path):
    for file in (write(tmp_path / "f", SESSIONS * 100), _parquet(tmp_path / "p", SESSIONS * 100)):
        with open_records(file) as records:
            assert records.fraction() < 1
            seen = [records.fraction() for _ in records.lines]
        assert seen == sorted(seen) and seen[-1] == 1


def _parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_parquet_rows_are_the_json_fields(tmp_path):
    at = datetime(2024, 5, 17, 12, 30, tzinfo=UTC)
    rows = [
        {
            "session_id": 17,
            "user_id": None,
            "search_query": "red",
            "created_at": at,
            "search_results": [
                {"object_id": 4, "rank": 0.5, "meta": None},
                {"object_id": 5, "rank": float("nan"), "meta": {"price": Decimal("9.5")}},
            ],
            "events": [{"event_id": b"e", "object_id": 4, "created_at": at.replace(tzinfo=None)}],
            "is_irrelevant": False,
        }
    ]
    expected = {
        "session_id": "17",
        "search_query": "red",
        "created_at": at.timestamp(),
        "search_results": [{"object_id": "4", "rank": 0.5}, {"object_id": "5", "meta": {"price": 9.5}}],
        "events": [{"event_id": "e", "object_id": "4", "created_at": at.timestamp()}],
        "is_irrelevant": False,
    }
    assert read(_parquet(tmp_path / "f", rows)) == ("tuneloop", [expected])


def test_parquet_of_ubi_keeps_times_as_text(tmp_path):
    rows = [{"query_id": "q", "user_query": "red", "timestamp": datetime(2024, 5, 17, tzinfo=UTC)}]
    kind, [record] = read(_parquet(tmp_path / "f", rows))
    assert kind == "ubi" and record["timestamp"] == "2024-05-17T00:00:00+00:00"


def test_standard_input(tmp_path, monkeypatch):
    packed = gzip.compress(b"\n".join(json.dumps(record).encode() for record in SESSIONS))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(packed))))
    with open_records(type(tmp_path)("-")) as records:
        assert len(list(records.lines)) == len(SESSIONS) and records.fraction() is None


def test_files_that_cannot_be_used_say_why(tmp_path):
    def refused(data: bytes, match: str) -> None:
        (tmp_path / "f").write_bytes(data)
        with pytest.raises(ClientError, match=match):
            read(tmp_path / "f")

    refused(b'[{"a": 1}]', "one JSON list")
    refused(b"PK\x03\x04\0\0\0", "neither JSON lines")
    refused(b"PAR1 and then nothing", "as Parquet")
    refused(gzip.compress(b'{"a": 1}\n' * 10_000)[:-20], "damaged")
    with pytest.raises(ClientError, match="no such file"):
        read(tmp_path / "missing")
    with pytest.raises(ClientError, match="is a directory"):
        read(tmp_path)


def test_read_json_names_the_line(tmp_path):
    (tmp_path / "f").write_text('{"a": 1}\n\n{broken\n')
    with pytest.raises(ClientError, match="line 3"):
        read_json(tmp_path / "f")
    (tmp_path / "f").write_text('{"a": 1}\n\n{"a": 2}\n')
    assert read_json(tmp_path / "f") == [{"a": 1}, {"a": 2}]
