import math

from hypothesis import given
from hypothesis import strategies as st

from tuneloop.tracking.series import WINDOW, Series

VALUES = st.lists(st.floats(-1e300, 1e300) | st.just(math.nan) | st.just(math.inf), max_size=40)


@given(VALUES)
def test_series_equal_their_definitions(values: list[float]) -> None:
    series = Series()
    seen: list[float] = []
    for value in values:
        got = series.add({"train_loss": value, "test_loss": value})
        if not math.isfinite(value):
            assert set(got) == {"train_loss", "test_loss"}
            continue
        seen.append(value)
        window = seen[-WINDOW:]
        scale = max(map(abs, seen))
        assert math.isclose(got["mean_train_loss"], sum(v / len(seen) for v in seen), abs_tol=1e-9 * scale)
        assert math.isclose(got["sliding_train_loss"], sum(v / len(window) for v in window), abs_tol=1e-9 * scale)
        assert got["min_train_loss"] == min(seen)
        assert got["max_train_loss"] == max(seen)
        assert "mean_test_loss" not in got


def test_each_metric_has_series_of_its_own() -> None:
    series = Series()
    series.add({"train_loss": 4.0})
    got = series.add({"train_loss": 2.0, "train_mrr": 0.5})
    assert (got["mean_train_loss"], got["mean_train_mrr"]) == (3.0, 0.5)
