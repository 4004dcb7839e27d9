"""The catalogue: what is stored, replaced, paged and forgotten."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuneloop.catalog.store import Catalog, Item
from tuneloop.database import Database
from tuneloop.errors import InvalidInput, NotFound

ODD_IDS = ["a/b/../c", "'; DROP TABLE items; --", '"', "%2F", "\\", "ü\U0001f600", " ", "x" * 512]
any_id = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6)


@pytest.fixture
def catalog(database: Database) -> Catalog:
    return Catalog(database)


def all_items(catalog: Catalog, limit: int) -> list[Item]:
    found: list[Item] = []
    after: str | None = None
    while True:
        page, after = catalog.page(after=after, limit=limit)
        found += page
        if after is None:
            return found


def test_items_are_kept_as_they_were_sent(catalog: Catalog) -> None:
    sent = [Item("a", "red shoe \U0001f45f", {"price": 9.5, "tags": ["x", None]}), Item("b"), Item("c", "", {})]
    assert catalog.upsert(sent) == 3
    assert [catalog.get(item.object_id) for item in sent] == sent
    assert catalog.count() == 3


def test_a_later_item_takes_the_place_of_an_earlier_one(catalog: Catalog) -> None:
    catalog.upsert([Item("a", "old", {"x": 1}), Item("b", "stays")])
    assert catalog.upsert([Item("a", "newer"), Item("a", None, {"y": 2}), Item("c", "new")]) == 2
    assert catalog.get("a") == Item("a", None, {"y": 2})
    assert catalog.get("b").text == "stays"
    assert catalog.count() == 3
    assert catalog.upsert([]) == 0


def test_an_upsert_that_fails_stores_nothing(catalog: Catalog) -> None:
    catalog.upsert([Item("a", "old")])
    with pytest.raises(Exception, match="JSON serializable"):
        catalog.upsert([Item("a", "new"), Item("b", "new"), Item("c", fields={"x": object()})])
    assert (catalog.get("a").text, catalog.count()) == ("old", 1)


def test_a_deleted_item_is_gone(catalog: Catalog) -> None:
    catalog.upsert([Item("a"), Item("b")])
    catalog.delete("a")
    for call in (catalog.get, catalog.delete):
        with pytest.raises(NotFound, match="'a'"):
            call("a")
    assert catalog.count() == 1


def test_ids_are_opaque(catalog: Catalog) -> None:
    catalog.upsert([Item(odd, odd) for odd in ODD_IDS])
    assert [catalog.get(odd).text for odd in ODD_IDS] == ODD_IDS
    catalog.delete(ODD_IDS[1])
    assert [item.object_id for item in all_items(catalog, 2)] == sorted({*ODD_IDS} - {ODD_IDS[1]})


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.sets(any_id, max_size=30), limit=st.integers(1, 12))
def test_pages_give_each_item_once_in_the_order_of_code_points(catalog: Catalog, ids: set[str], limit: int) -> None:
    for item in all_items(catalog, 1000):
        catalog.delete(item.object_id)
    catalog.upsert([Item(object_id) for object_id in ids])
    assert [item.object_id for item in all_items(catalog, limit)] == sorted(ids)


@pytest.mark.parametrize("cursor", ["nonsense!", "", "AA", "_w"])
def test_a_cursor_of_ones_own_making_is_refused(catalog: Catalog, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="not a cursor"):
        catalog.page(after=cursor, limit=10)


@pytest.mark.parametrize(
    ("item", "content"),
    [
        (Item("a", "text", {"x": "not this"}), "text"),
        (Item("a", "", {"x": "not this"}), ""),
        (Item("a"), ""),
        (
            Item("a", None, {"title": "Red shoe", "price": 9.5, "tags": ["x", None, {"y": ["z", ""]}]}),
            "Red shoe 9.5 x z",
        ),
    ],
)
def test_content_is_the_text_or_else_the_fields(item: Item, content: str) -> None:
    assert item.content == content


def test_contents_are_of_those_that_exist(catalog: Catalog, database: Database) -> None:
    catalog.upsert([Item(f"{number}", f"text {number}") for number in range(2500)])
    asked = [f"{number}" for number in range(2000, 4000)]
    expected = {f"{number}": f"text {number}" for number in range(2000, 2500)}
    assert catalog.contents(asked) == expected
    assert catalog.contents([]) == {}
    with database.read() as connection:
        assert catalog.contents(set(asked), connection) == expected


def test_upserts_of_the_same_items_at_once_leave_one_whole(catalog: Catalog) -> None:
    errors: list[Exception] = []

    def upsert(number: int) -> None:
        items = [Item(f"{at}", f"version {number}") for at in range(200)]
        try:
            catalog.upsert(items if number % 2 else items[::-1])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=upsert, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert catalog.count() == 200
    assert len({item.text for item in all_items(catalog, 1000)}) == 1
