"""Ids, times and cursors."""

import math
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop import ids
from tuneloop.errors import InvalidInput


def test_new_ids_are_24_hex_digits_and_never_the_same() -> None:
    made = [ids.new_id() for _ in range(1000)]
    assert all(re.fullmatch("[0-9a-f]{24}", one) for one in made)
    assert len(set(made)) == 1000


@pytest.mark.parametrize("good", ["a", "a/b/../c", "'\"\\", "ü\U0001f600", " ", "x" * 512, "\u2028", "\u200b"])
def test_opaque_ids_are_left_alone(good: str) -> None:
    assert ids.check_opaque_id(good) == good


@pytest.mark.parametrize("bad", ["", "x" * 513, "a\0", "a\nb", "\x7f", "\x85", "\ud800", "a\udfffb"])
def test_ids_that_harm_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="an id"):
        ids.check_opaque_id(bad)


@pytest.mark.parametrize("bad", ["\0", "a\0b", "\ud800", "a\udfff"])
def test_text_that_no_store_can_hold_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="text must not hold"):
        ids.check_text(bad)
    for value in (bad, [bad], {"a": [{"b": bad}]}, {bad: 1}):
        with pytest.raises(ValueError, match="text must not hold"):
            ids.check_json(value)


@pytest.mark.parametrize("value", [None, True, 1, 10**30, -1.5, "a\nb", [], {}, {"a": [1, {"b": None}]}])
def test_json_values_are_left_alone(value: Any) -> None:
    assert ids.check_json(value) is value


def test_json_that_is_too_deep_or_no_number_is_refused() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    assert ids.check_json(deep) is deep
    with pytest.raises(ValueError, match="nested"):
        ids.check_json([deep])
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            ids.check_json({"a": [bad]})


def test_times_have_six_digits_and_no_offset() -> None:
    assert ids.iso(1_703_169_025_823_000) == "2023-12-21T14:30:25.823000"
    assert ids.iso(0) == "1970-01-01T00:00:00.000000"


@given(st.integers(0, 4_102_444_800_000_000 - 1))
def test_every_microsecond_survives(micros: int) -> None:
    told = datetime.fromisoformat(ids.iso(micros)).replace(tzinfo=UTC)
    assert (told - datetime.fromtimestamp(0, UTC)).total_seconds() == pytest.approx(micros / 1e6, abs=1e-6)
    assert ids.to_micros(micros / 1_000_000) == micros


@given(st.one_of(st.integers(0), st.text(st.characters(exclude_categories=["Cs"]))))
def test_cursors_go_into_a_url_and_come_back(key: int | str) -> None:
    cursor = ids.encode_cursor(key)
    assert re.fullmatch("[A-Za-z0-9_-]*", cursor)
    assert ids.decode_cursor(cursor) == str(key)


@pytest.mark.parametrize("bad", ["a", "_w", "\xff", "ü"])
def test_what_is_no_cursor_is_refused(bad: str) -> None:
    with pytest.raises(InvalidInput, match="not a cursor"):
        ids.decode_cursor(bad)
