"""Items through the client."""

import json

import pytest

from tuneloop.client import InvalidInputError, Item, NotFoundError, TooLargeError


def test_many_items_go_in_chunks(own_client):
    items = [Item(f"i{number:05}", text=f"text {number}") for number in range(2_500)]
    stored = []
    assert own_client.upsert_items(iter(items), progress=stored.append) == 2_500
    assert stored == [1_000, 2_000, 2_500]
    assert list(own_client.items(page_size=700)) == items


def test_chunks_stay_below_the_body_limit(own_client):
    assert own_client.upsert_items({"object_id": f"i{n}", "text": "x" * 1_000_000} for n in range(25)) == 25
    with pytest.raises(TooLargeError):
        own_client.upsert_items([{"object_id": "huge", "text": "x" * 11_000_000}])


@pytest.mark.parametrize("name", [".", "..", "../..", "a/../b", "/", "a%2Fb", "a?b#c", "ü ", "'\"", "\\"])
def test_any_id_finds_its_item(client, name):
    item = Item(name, fields={"title": "Red dress", "sizes": [1, 2]})
    client.upsert_items([item])
    assert client.get_item(name) == item
    client.delete_item(name)
    with pytest.raises(NotFoundError):
        client.get_item(name)
    with pytest.raises(NotFoundError):
        client.delete_item(name)


def test_a_bad_item_stores_none_of_its_request(client, new_id):
    good = new_id()
    with pytest.raises(InvalidInputError, match=r"1\.text"):
        client.upsert_items([{"object_id": good, "text": "x"}, {"object_id": "b", "text": 3}])
    with pytest.raises(NotFoundError):
        client.get_item(good)


def test_an_import_leaves_bad_items_out_and_names_their_lines(own_client):
    lines = [json.dumps({"object_id": f"i{number}", "text": "x"}) for number in range(2_500)]
    lines[0] = ""
    lines[7] = "{broken"
    lines[9] = json.dumps({"object_id": "", "text": "x"})
    lines[1_200] = json.dumps({"object_id": "i1200", "text": 5, "colour": "red"})
    lines[2_499] = json.dumps({"object_id": "huge", "text": "x" * 11_000_000})

    report = own_client.import_items(lines)

    assert [bad.line for bad in report.rejected] == [8, 10, 1_201, 2_500]
    assert "JSON" in report.rejected[0].error and "text" in report.rejected[2].error
    assert "colour" in report.rejected[2].error and "larger" in report.rejected[3].error
    assert report.accepted == 2_495 == sum(1 for _ in own_client.items())
    assert report.rejected_total == 4 and report.complete


def test_an_import_of_nothing_but_bad_items_ends_early(own_client):
    report = own_client.import_items({"object_id": "", "text": "x"} for _ in range(5_000))
    assert report.all_rejected and not report.complete and len(report.rejected) == 1_000
