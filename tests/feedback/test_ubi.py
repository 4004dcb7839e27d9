"""OpenSearch UBI records become sessions, wherever in the stream they are."""

import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.feedback import ndjson
from tuneloop.feedback.store import FeedbackStore, ImportReport

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "ubi" / "ubi_queries_events.ndjson.gz"


def query(query_id: str = "q", text: str | None = "laptop", hits: str = "abc", **more: Any) -> dict[str, Any]:
    record = {"query_id": query_id, "user_query": text, "client_id": "c", "timestamp": "2024-12-10T00:00:00.500Z"}
    return record | {"query_response_hit_ids": list(hits), "query_attributes": {}} | more


def event(action: str, object_id: str | None = None, at: float | None = None, **more: Any) -> dict[str, Any]:
    attributes = {"object": {"object_id": object_id, "object_id_field": "asin"}, "position": {"ordinal": at}}
    record = {"action_name": action, "query_id": "q", "client_id": "c", "timestamp": 1_733_788_805_250}
    return record | {"event_attributes": attributes if object_id else {"session_id": "x"}} | more


def load(store: FeedbackStore, *records: Any) -> ImportReport:
    return store.import_sessions(ndjson(*records), format="ubi")


def shown(store: FeedbackStore, query_id: str = "q") -> str:
    return "".join(result.object_id for result in store.get_session(query_id).search_results)


def done(store: FeedbackStore, query_id: str = "q") -> list[str]:
    return sorted(f"{event.event_type} {event.object_id}" for event in store.get_session(query_id).events)


def only_reason(report: ImportReport) -> str:
    assert (report.accepted, report.duplicates, report.rejected_total) == (0, 0, 1)
    return report.rejected[0].error


def test_a_query_with_hits_and_events_is_a_session(store: FeedbackStore) -> None:
    events = [
        event("impression", "b", 2),
        event("click", "b", 2),
        event("add_to_cart", "b", 2),
        event("item_click", "c"),
    ]
    report = load(store, query(), *events, event("search"), event("type_filter", "shoes"), event("product_hover", "a"))
    assert (report.accepted, report.duplicates, report.rejected) == (1, 0, [])
    session = store.get_session("q")
    assert (session.search_query, session.user_id) == ("laptop", "c")
    assert (session.created_at, session.events[0].created_at) == (1_733_788_800_500_000, 1_733_788_805_250_000)
    assert shown(store) == "abc"
    assert done(store) == ["add_to_cart b", "click b", "click c", "product_hover a"]


def test_the_order_of_lines_and_the_action_lines_of_bulk_files_mean_nothing(store: FeedbackStore) -> None:
    records = [query(), query(text="laptop", hits="", timestamp="2024-12-10T00:00:02Z")]
    records += [event("click", object_id, at) for at, object_id in enumerate("bca")]
    records += [query("other", "phone", "xy"), event("click", "y", query_id="other")]
    assert load(store, *records).accepted == 2
    before = store.get_session("q"), store.get_session("other")
    random.Random(0).shuffle(records)
    with_actions = [part for record in records for part in ({"index": {"_index": "ubi", "_id": "1"}}, record)]
    report = load(store, *with_actions)
    assert (report.accepted, report.duplicates, report.rejected) == (0, 2, [])
    assert (store.get_session("q"), store.get_session("other")) == before


def test_without_hits_the_impressions_are_the_results_by_position(store: FeedbackStore) -> None:
    records = [event("impression", object_id, at) for object_id, at in (("c", 7), ("a", 1), ("b", 2.5), ("d", None))]
    load(store, *records, event("click", "e", 0), query(hits=""))
    assert shown(store) == "eabcd"
    assert done(store) == ["click e"]


def test_pages_of_hits_follow_each_other_in_time(store: FeedbackStore) -> None:
    second = query(hits="cde", timestamp="2024-12-10T00:00:09+0000")
    load(store, second, query(hits="abc", timestamp="2024-12-09T19:00:08-05:00"))
    assert shown(store) == "abcde"


def test_of_several_texts_under_one_id_the_one_acted_upon_counts(store: FeedbackStore) -> None:
    typed = [query(text=text, hits=hits) for text, hits in (("l", "xyz"), ("lap", "yz"), ("laptop", "abc"))]
    report = load(store, *typed, event("click", "a", user_query="laptop"), event("impression", "x", user_query="l"))
    assert store.get_session("q").search_query == "laptop"
    assert (shown(store), done(store)) == ("abc", ["click a"])
    assert [(rejected.line, "'l'" in rejected.error) for rejected in report.rejected] == [(5, True)]


def test_events_without_their_query_tell_it_themselves(store: FeedbackStore) -> None:
    report = load(store, event("click", "b", 2, user_query="laptop", user_id="u"), event("impression", "a", 1))
    assert (report.accepted, report.rejected) == (1, [])
    session = store.get_session("q")
    assert (session.search_query, session.user_id, shown(store), done(store)) == ("laptop", "u", "ab", ["click b"])
    assert load(store, event("click", "b", 2, user_query="laptop", user_id="u")).duplicates == 1


def test_events_may_come_in_a_later_file_than_their_queries(store: FeedbackStore) -> None:
    load(store, query(), query("p", "phone", "xy"))
    later = [event("click", "b"), event("impression", "a"), event("purchase", "y", query_id="p", user_query="phone")]
    assert load(store, *later).accepted == 2
    assert (done(store), done(store, "p")) == (["click b"], ["purchase y"])
    assert load(store, *later).duplicates == 2
    assert load(store, query(), query("p", "phone", "xy")).duplicates == 2
    assert "did not show all the objects" in only_reason(load(store, event("click", "z")))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"{broken", "Invalid JSON"),
        ([], "not a JSON object"),
        ({"foo": 1}, "neither a ubi_queries record"),
        (query(query_id=None), "belongs to no query"),  # type: ignore[arg-type]  # that is the fault
        (event("search", query_id=None), "belongs to no query"),
        (query(query_id="a\nb"), "query_id: "),
        (query(text=" "), "user_query: the query 'q' is blank"),
        (query(text="a\0"), "user_query: .*NUL"),
        (query(hits=""), "shows no object"),
        (event("search", user_query="laptop"), "shows no object"),
        (event("click", "a"), "do not tell the query"),
        (query(timestamp="yesterday"), "timestamp: "),
        (query(timestamp="1924-12-10T00:01:29.378Z"), "timestamp: "),
        (query() | {"query_response_hit_ids": [str(number) for number in range(1001)]}, "1,001 results"),
        (query() | {"query_response_hit_ids": ["a", ""]}, "query_response_hit_ids.1: "),
        (event("click", "a") | {"event_attributes": 7}, "event_attributes: "),
    ],
)
def test_what_makes_no_session_is_rejected_by_name(store: FeedbackStore, record: Any, reason: str) -> None:
    told = only_reason(load(store, record))
    assert re.search(reason, told), told
    assert store.batches() == [] or store.batches()[0].sessions == 0


def test_one_bad_event_does_not_cost_the_session(store: FeedbackStore) -> None:
    report = load(store, query(), event("click", "a"), event("click", "a\0"))
    assert (report.accepted, [rejected.line for rejected in report.rejected]) == (1, [3])
    assert done(store) == ["click a"]


def test_numbers_as_ids_and_records_with_nulls_are_taken(store: FeedbackStore) -> None:
    numbers = query(7, hits="") | {"query_response_hit_ids": [1, 2], "user_id": "", "timestamp": 1_733_788_800_500}  # type: ignore[arg-type]  # on purpose
    bare = {"action_name": "click", "query_id": 7, "event_attributes": {"object": {"object_id": 2}, "position": None}}
    assert load(store, numbers, bare, {"action_name": "search", "query_id": 7, "event_attributes": None}).accepted == 1
    assert (shown(store, "7"), done(store, "7"), store.get_session("7").user_id) == ("12", ["click 2"], "c")


def test_nothing_of_a_persons_machine_is_kept(store: FeedbackStore) -> None:
    private = {"object": {"object_id": "a", "description": "secret"}, "ip": "secret", "browser": "secret"}
    load(store, query(), event("click", "a", event_attributes=private, message="secret"))
    assert "secret" not in repr(store.get_session("q"))


def test_the_official_sample_is_imported(store: FeedbackStore) -> None:
    if not SAMPLE.exists():
        pytest.skip(f"needs {SAMPLE.name} of the shared data folder")
    with gzip.open(SAMPLE) as stream:
        lines = stream.readlines()
    report = store.import_sessions(lines, format="ubi")
    records = [record for record in map(json.loads, lines) if "index" not in record]
    objects: Counter[str] = Counter()
    for record in records:
        seen = record.get("action_name") in ("impression", "click", "add_to_cart", "purchase", "item_click")
        objects[record["query_id"] or ""] += bool(seen or record.get("query_response_hit_ids"))
    with_objects = {query_id for query_id, count in objects.items() if count and query_id}
    told = {record["query_id"] for record in records if record.get("user_query")}
    assert report.accepted == len(with_objects & told) == 278
    assert store.batches()[0].sessions == 278
    clicked = [
        session
        for session in store.batch_sessions(store.batches()[0].batch_id, after=None, limit=1000)[0]
        if session.events
    ]
    assert len(clicked) > 50
    again = store.import_sessions((line for line in lines if not line.startswith(b'{"index"')), format="ubi")
    assert (again.accepted, again.duplicates) == (0, 278)
