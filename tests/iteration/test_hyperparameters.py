import functools

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


def course(*values, outcome="done"):
    return RunRecord("r", 0, FIRST, outcome, values[-1] if outcome in ("done", "ineligible") else None, values)


def test_a_run_that_is_behind_the_best_at_the_same_evaluation_is_pruned():
    search = Search(SPACE, direction="maximize", seed=0)
    before = [course(0.2, 0.5, 0.8), course(0.1, outcome="pruned"), course(0.3, 0.4, outcome="pruned")]
    assert not pruned(search.ask([]), 0.1)  # nothing to compare with
    assert pruned(search.ask(before[:2]), 0.1) and not pruned(search.ask(before[:2]), 0.2)
    assert pruned(search.ask(before), 0.2) and not pruned(search.ask(before), 0.3)  # that of a pruned run too
    assert pruned(search.ask(before), 0.9, 0.4)  # however well it began
    assert not pruned(search.ask(before), 0.3, 0.5, 0.8, 0.1)  # no run came so far


def test_where_less_is_better_a_run_is_pruned_that_has_more():
    search = Search(SPACE, direction="minimize", seed=0)
    assert pruned(search.ask([course(0.2)]), 0.3) and not pruned(search.ask([course(0.2)]), 0.1)


def test_a_run_that_is_hardly_ahead_of_another_does_not_take_the_time_of_a_whole_run():
    search = Search(SPACE, direction="maximize", seed=0)
    before = [course(0.3, 0.5, 0.7)]
    asked = functools.partial(search.ask, start=0.1)
    assert pruned(asked(before), 0.319) and not pruned(asked(before), 0.321)  # of 0.2 gained
    assert pruned(asked(before), 0.4, 0.539) and not pruned(asked(before), 0.4, 0.541)  # of 0.4
    assert not pruned(asked(before), 0.4, 0.6, 0.7)  # at its end it is judged as it is
    assert not pruned(search.ask(before, start=0.3), 0.3)  # where nothing was gained there is nothing to be ahead of
    lower = Search(SPACE, direction="minimize", seed=0)
    assert pruned(lower.ask([course(0.5, 0.3)], start=0.7), 0.481)
    assert not pruned(lower.ask([course(0.5, 0.3)], start=0.7), 0.479)


def test_what_cannot_become_the_best_is_no_measure():
    search = Search(SPACE, direction="maximize", seed=0)
    for outcome in ("ineligible", "diverged", "failed"):
        assert not pruned(search.ask([course(0.5, outcome=outcome)]), 0.1)


def test_a_long_record_fits_into_a_tag():
    record = RunRecord("r", 0, FIRST, "failed", None, tuple(float(i) / 3 for i in range(1000)), 1.0, "why" * 1000)
    assert len(record.to_tag()) < 5000
    assert RunRecord.from_tag(record.to_tag()).params == FIRST
