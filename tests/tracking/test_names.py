import pytest

from tuneloop.tracking import experiment_url, names, run_url


@pytest.mark.parametrize("method", ["plain", "a", "a /", "/ a", "it's", "50%", "iteration"])
def test_only_experiments_named_as_iterations_count_as_such(method: str) -> None:
    assert names.iteration_batch(names.iteration_name(method, "0123"), method) == "0123"
    assert names.iteration_batch(f"kept / {method} / 0123 / 7", method) is None
    assert names.iteration_batch(f"iteration / {method} / ", method) is None
    assert names.iteration_batch(f"iteration / {method}", method) is None
    assert names.iteration_batch(names.INITIAL_EXPERIMENT, method) is None
    assert names.iteration_batch(f"iteration / {method} / 0123 / 4", method) is None


def test_a_method_has_no_part_in_the_iterations_of_another() -> None:
    assert names.iteration_batch(names.iteration_name("a /", "0123"), "a") is None
    assert names.iteration_batch(names.iteration_name("a", "0123"), "a /") is None
    assert names.iteration_batch(names.iteration_name("ab", "0123"), "a") is None


def test_links_lead_to_mlflows_pages_for_training() -> None:
    view = "?workflowType=machine_learning"
    assert experiment_url("http://localhost:5001/", "7") == f"http://localhost:5001/#/experiments/7/runs{view}"
    assert run_url("http://localhost:5001", "7", "abc") == f"http://localhost:5001/#/experiments/7/runs/abc{view}"
