import json
from collections.abc import Callable
from urllib.parse import quote

import httpx
import pytest

ITEMS = "/api/v1/items"
NDJSON = {"Content-Type": "application/x-ndjson"}


def test_items_are_written_replaced_and_deleted(http: httpx.Client, new_id: Callable[[], str]) -> None:
    first, second = new_id(), new_id()
    items = [{"object_id": first, "text": "red"}, {"object_id": second, "fields": {"title": "blue", "size": [1, None]}}]
    assert http.post(ITEMS, json=items).json() == {"upserted": 2}
    assert [http.get(f"{ITEMS}/{item['object_id']}").json() for item in items] == items
    assert http.post(ITEMS, json=[{"object_id": first, "text": "green"}]).json() == {"upserted": 1}
    assert http.get(f"{ITEMS}/{first}").json() == {"object_id": first, "text": "green"}
    assert http.delete(f"{ITEMS}/{first}").status_code == 200
    assert http.get(f"{ITEMS}/{first}").status_code == 404
    assert http.delete(f"{ITEMS}/{first}").status_code == 404


@pytest.mark.parametrize(
    "content_type", ["application/x-ndjson", "application/jsonl", "text/plain", "application/x-www-form-urlencoded"]
)
def test_items_come_as_ndjson(http: httpx.Client, new_id: Callable[[], str], content_type: str) -> None:
    ids = [new_id() for _ in range(3)]
    body = "\n".join(json.dumps({"object_id": object_id, "text": "x"}) for object_id in ids) + "\r\n\n"
    answer = http.post(ITEMS, content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()) == (200, {"upserted": 3})


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_a_json_list_is_understood_whatever_it_is_called(
    http: httpx.Client, new_id: Callable[[], str], content_type: str
) -> None:
    body = json.dumps([{"object_id": new_id(), "text": "x"}], indent=2)
    assert http.post(ITEMS, content=body, headers={"Content-Type": content_type}).json() == {"upserted": 1}


def test_one_bad_item_stores_none(http: httpx.Client, new_id: Callable[[], str]) -> None:
    good, bad = new_id(), new_id()
    items = [{"object_id": good, "text": "red"}, {"object_id": bad, "image_url": "https://example.org/x.png"}]
    answer = http.post(ITEMS, json=items)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][:3] == ["body", 1, "image_url"]
    assert http.get(f"{ITEMS}/{good}").status_code == 404

    lines = json.dumps(items[0]) + "\n{broken\n"
    answer = http.post(ITEMS, content=lines, headers=NDJSON)
    assert answer.status_code == 422
    assert "line 2" in answer.json()["detail"][0]["msg"]
    assert http.get(f"{ITEMS}/{good}").status_code == 404


STRANGE = [
    "a/b",
    "a//b/",
    "/leading",
    "../x",
    "..",
    ".",
    "../../../etc/passwd",
    "%2e%2e",
    "%2F",
    "a%00b",
    "a b+c",
    "?query#fragment",
    'it\'s "quoted"',
    "'; DROP TABLE items; --",
    "back\\slash",
    "ünï-码-🙂",
    "{object_id}",
    "\u2028",
    "x" * 512,
]


@pytest.mark.parametrize("object_id", STRANGE)
def test_strange_ids_round_trip(http: httpx.Client, object_id: str) -> None:
    path = f"{ITEMS}/{quote(object_id, safe='').replace('.', '%2E')}"
    assert http.post(ITEMS, json=[{"object_id": object_id, "text": "x"}]).json() == {"upserted": 1}
    assert http.get(path).json() == {"object_id": object_id, "text": "x"}
    assert http.delete(path).status_code == 200
    assert http.get(path).status_code == 404


def test_slashes_in_a_path_need_no_encoding(http: httpx.Client, new_id: Callable[[], str]) -> None:
    object_id = f"shop//{new_id()}/"
    http.post(ITEMS, json=[{"object_id": object_id, "text": "x"}])
    assert http.get(f"{ITEMS}/{object_id}").json()["object_id"] == object_id


@pytest.mark.parametrize("path", ["a%00b", "a%0A", "%0A", "%7F", "x" * 513])
def test_ids_that_cannot_be_are_422(http: httpx.Client, path: str) -> None:
    answer = http.get(f"{ITEMS}/{path}")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["path", "object_id"]


def test_an_id_does_not_lose_its_line_end(http: httpx.Client, new_id: Callable[[], str]) -> None:
    object_id = new_id()
    http.post(ITEMS, json=[{"object_id": object_id, "text": "x"}])
    assert http.delete(f"{ITEMS}/{object_id}%0A").status_code == 422
    assert http.get(f"{ITEMS}/{object_id}").status_code == 200


def test_items_are_listed_page_by_page(http: httpx.Client, new_id: Callable[[], str]) -> None:
    ids = {new_id() for _ in range(5)}
    http.post(ITEMS, json=[{"object_id": object_id, "text": "x"} for object_id in ids])
    seen, after = [], None
    while True:
        page = http.get(ITEMS, params={"limit": 3, **({"after": after} if after else {})}).json()
        seen += [item["object_id"] for item in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert seen == sorted(seen)
    assert ids <= set(seen)
    assert http.get(ITEMS, params={"after": "nonsense!"}).json()["detail"][0]["loc"] == ["query", "after"]
    for limit in (0, -1, 1001, "many"):
        assert http.get(ITEMS, params={"limit": limit}).json()["detail"][0]["loc"] == ["query", "limit"]
