from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tuneloop.iteration.hyperparameters import Search
from tuneloop.iteration.record import RunRecord

SPACE = {
    "lr": FloatDistribution(1e-6, 1e-3, log=True),
    "margin": FloatDistribution(0.0, 1.0),
    "layers": IntDistribution(0, 6),
    "loss": CategoricalDistribution(["a", "b"]),
}
FIRST = {"lr": 3e-5, "margin": 0.2, "layers": 4, "loss": "b"}


def play(search: Search, runs: int, *, outcome=lambda index: "done", records=()) -> list[RunRecord]:
    records = list(records)
    for index in range(len(records), runs):
        params = search.ask(records).params
        value = -abs(params["margin"] - 0.4)
        records.append(RunRecord(f"r{index}", index, params, outcome(index), value, (value / 2, value)))
    return records


def test_first_trial_is_the_known_one():
    search = Search(SPACE, direction="maximize", seed=1, defaults=FIRST)
    assert search.ask([]).params == FIRST


def test_what_is_promising_is_tried_next_in_a_first_iteration_alone():
    name, value = "margin", 0.123
    search = Search(SPACE, direction="maximize", seed=1, defaults=FIRST, promising=[{name: value}, {name: 1e9}])
    trials = play(search, 3)
    assert [trial.params for trial in trials[:2]] == [FIRST, FIRST | {name: value}]
    assert trials[2].params[name] not in (value, 1e9)
    later = Search(SPACE, direction="maximize", seed=1, defaults=FIRST, promising=[{name: value}], best=FIRST)
    assert play(later, 2)[1].params[name] != value


def test_later_iterations_look_around_the_best():
    search = Search(SPACE, direction="maximize", seed=1, best=FIRST)
    records = play(search, 12)
    assert records[0].params == FIRST
    assert all(1e-5 <= record.params["lr"] <= 9e-5 for record in records)
    assert all(0.0 <= record.params["margin"] <= 0.45 for record in records)
    assert all(2 <= record.params["layers"] <= 6 for record in records)


def test_what_an_older_version_did_not_have_begins_at_its_default_and_is_searched_as_in_a_first_iteration():
    older = {name: value for name, value in FIRST.items() if name != "margin"}
    search = Search(SPACE, direction="maximize", seed=1, defaults={**FIRST, "lr": 1e-6, "margin": 0.0}, best=older)
    assert search.ask([]).params == {**FIRST, "margin": 0.0}
    assert search.space["margin"] == SPACE["margin"]
    record = RunRecord("r0", 0, older, "done", 0.5)  # by a run of that version, before the worker was upgraded
    assert set(search.ask([record]).params) == set(SPACE)


def test_settings_of_an_older_space_are_left_out():
    search = Search(SPACE, direction="maximize", seed=1, best={**FIRST, "layers": 40, "gone": 1})
    params = search.ask([]).params
    assert params["lr"] == FIRST["lr"]
    assert set(params) == set(SPACE)


@given(st.integers(0, 1000), st.integers(0, 7), st.sampled_from(["done", "pruned", "ineligible", "diverged", "failed"]))
def test_a_resumed_search_asks_the_same_questions(seed, interrupted_after, outcome):
    def outcomes(index):
        return outcome if index % 2 else "done"

    whole = play(Search(SPACE, direction="maximize", seed=seed, defaults=FIRST), 8, outcome=outcomes)
    remembered = [RunRecord.from_tag(record.to_tag()) for record in whole[:interrupted_after]]
    resumed = play(
        Search(SPACE, direction="maximize", seed=seed, defaults=FIRST), 8, outcome=outcomes, records=remembered
    )
    assert [record.params for record in resumed] == [record.params for record in whole]


def pruned(trial, *course):
    for step, value in enumerate(course):
        trial.report(value, step)
    return trial.should_prune()


def test_a_run_that_is_behind_the_best_ones_at_the_same_evaluation_is_pruned():
    search = Search(SPACE, direction="maximize", seed=0)
    courses = [(0.5, 0.8, 1.0), (0.1, 0.2, 0.3), (0.2, 0.3, 0.4)]
    good = [RunRecord(f"r{i}", i, FIRST, "done", course[-1], course) for i, course in enumerate(courses)]
    assert not pruned(search.ask([]), 0.1)  # nothing to compare with
    for before in (good[:1], good):
        assert pruned(search.ask(before), 0.2)
        assert not pruned(search.ask(before), 0.6)
        assert not pruned(search.ask(before), 0.1, 0.9)


def test_a_long_record_fits_into_a_tag():
    record = RunRecord("r", 0, FIRST, "failed", None, tuple(float(i) / 3 for i in range(1000)), 1.0, "why" * 1000)
    assert len(record.to_tag()) < 5000
    assert RunRecord.from_tag(record.to_tag()).params == FIRST
