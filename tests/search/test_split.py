from hypothesis import given
from hypothesis import strategies as st

from tuneloop.search.split import is_held_out, normalize_query


def test_about_a_fifth_of_all_queries_is_held_out():
    share = sum(is_held_out(f"query number {number}") for number in range(10_000)) / 10_000
    assert 0.18 < share < 0.22


def test_the_split_stays_what_it_was_in_earlier_iterations():
    assert [number for number in range(20) if is_held_out(f"query {number}")] == [6, 10, 17, 18]


@given(st.text(min_size=1, max_size=40))
def test_spelling_variants_of_a_query_stand_on_the_same_side(query):
    side = is_held_out(query)
    assert is_held_out(f"  {query.replace(' ', '   ')}\t") == side
    assert is_held_out(normalize_query(query)) == side


@given(st.text(alphabet=st.characters(max_codepoint=0x7F), max_size=40))
def test_case_does_not_count(query):
    assert normalize_query(query.upper().lower()) == normalize_query(query.lower())


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(query):
    assert normalize_query(normalize_query(query)) == normalize_query(query)
