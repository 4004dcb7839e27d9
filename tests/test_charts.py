import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.charts import MAX_POINTS, Line, line_chart, thinned, ticks


@given(st.floats(-1000, 1000), st.floats(0, 1000), st.integers(3, 8))
def test_ticks_are_few_even_and_take_in_the_values(low, width, count):
    found = ticks(low, low + width, count)
    assert found[0] <= low + 1e-6 and found[-1] >= low + width - 1e-6
    assert 2 <= len(found) <= count + 3
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)


@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(-10, 10)), min_size=1, max_size=50))
def test_everything_stands_within_the_frame(points):
    chart = line_chart("loss", [Line("a", sorted(points), "#000", dots=True)], mark=points[0][0])
    for x, y in chart.lines[0].dots:
        assert chart.left <= x <= chart.right and chart.top <= y <= chart.bottom
    assert all(chart.left <= x <= chart.right for x, _ in chart.x_ticks)
    assert chart.left <= chart.mark <= chart.right


def test_higher_values_stand_higher_and_labels_are_apart():
    chart = line_chart("nDCG", [Line("a", [(0, 0.41), (10, 0.42), (20, 0.43)], "#000", dots=True)])
    heights = [y for _, y in chart.lines[0].dots]
    assert heights == sorted(heights, reverse=True)
    labels = [label for _, label in chart.y_ticks]
    assert len(set(labels)) == len(labels)


def test_a_long_series_is_shown_by_means():
    found = thinned([(step, step % 2) for step in range(1000)])
    assert len(found) <= MAX_POINTS
    assert found[0] == pytest.approx((2.0, 0.4))
    assert thinned([(1, 2.0)]) == [(1, 2.0)]


def test_nothing_to_draw_is_no_chart():
    assert line_chart("loss", [Line("a", [], "#000")]) is None
