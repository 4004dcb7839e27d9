"""Several models' predictions as one."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.relational.blend import combine
from tuneloop.relational.learner import Links

Ranking = list[list[str]]


def links(rows: Ranking, width: int) -> Links:
    keys = [key for row in rows for key in [*row, *[None] * (width - len(row))]]
    scores = [[float(width - at) if at < len(row) else -np.inf for at in range(width)] for row in rows]
    return Links(pa.array(keys, pa.string()), np.array(scores))


def named(found: Links) -> Ranking:
    width = found.scores.shape[1]
    keys = found.keys.to_pylist()
    return [[key for key in keys[at : at + width] if key is not None] for at in range(0, len(keys), width)]


def test_numbers_are_averaged_by_their_weights() -> None:
    found = combine([np.array([0.0, 1.0]), np.array([1.0, 1.0])], [3, 1])
    np.testing.assert_allclose(found, [0.25, 1.0])


def test_links_that_both_put_first_come_first() -> None:
    first, second = links([["a", "b", "c"], []], 3), links([["b", "d"], ["z"]], 2)
    found = combine([first, second], [0.5, 0.5])
    assert isinstance(found, Links)
    assert named(found) == [["b", "a", "d"], ["z"]]
    assert (np.diff(found.scores[:, :1]) <= 0).all()


rankings = st.lists(st.permutations("abcdef").map(lambda keys: list(keys[:4])), min_size=2, max_size=2)


@given(rankings, rankings)
def test_a_fused_ranking_is_that_of_the_sums_of_reciprocal_ranks(one: Ranking, two: Ranking) -> None:
    found = combine([links(one, 4), links(two, 4)], [0.7, 0.3])
    assert isinstance(found, Links)
    for row, (left, right) in enumerate(zip(one, two, strict=True)):
        score = {
            key: (0.7 / (61 + left.index(key)) if key in left else 0)
            + (0.3 / (61 + right.index(key)) if key in right else 0)
            for key in {*left, *right}
        }
        mine = named(found)[row]
        assert np.allclose([score[key] for key in mine], sorted(score.values(), reverse=True)[:4])
