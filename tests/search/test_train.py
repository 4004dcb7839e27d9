from dataclasses import replace

import numpy as np
import pytest
import torch

from support.models import TINY_PARAMS, made_up_items, made_up_sessions, write_snapshot
from tuneloop.search.cache import PrefixCache
from tuneloop.search.data import make_training_data
from tuneloop.search.encoder import Encoder
from tuneloop.search.evaluate import Evaluator
from tuneloop.search.model import load_model
from tuneloop.search.propensity import Propensity
from tuneloop.search.sessions import read_log
from tuneloop.search.start import embed_by_start_model
from tuneloop.search.tokens import tokenize
from tuneloop.search.train import LossDiverged, Params, Schedule, train

PARAMS = {
    "query_weight_decay": 0.01,
    "items_weight_decay": 0.01,
    "margin": 0.05,
    "temperature": 0.05,
    "robustness": 0.3,
    "not_irrelevant_only": False,
    "negative_downsampling": 0.3,
    **TINY_PARAMS,
}
MAIN = "test_not_irrelevant_dist_shift"


class Bench:
    """Data, tokens and evaluator over the made-up log; `train` starts from the tiny model each time."""

    def __init__(self, folder, model, precision="auto"):
        snapshot = write_snapshot(folder)
        self.data = make_training_data(read_log(snapshot.sessions(), snapshot.items()))
        self.model, self.precision = model, precision
        self.tokens = tokenize(load_model(model), self.data.texts, queries=self.data.queries)
        self.evaluator = Evaluator(self.data, self.encoder(), background=32, train_sample=100)
        self.start_embeddings = embed_by_start_model(self.encoder(), self.data.trained_on, folder)

    def encoder(self):
        return Encoder(load_model(self.model), self.tokens, precision=self.precision)

    def train(self, params=None, schedule=None, **more):
        encoder = self.encoder()
        schedule = Schedule(**({"epochs": 2, "evaluations": 2, "patience": 2, "main_metric": MAIN} | (schedule or {})))
        params = Params(**PARAMS | (params or {}))
        more = {"seed": 1, "start_embeddings": self.start_embeddings, **more}
        return encoder, train(encoder, self.data, self.evaluator, params, schedule, **more)


@pytest.fixture(scope="module")
def bench(tmp_path_factory, tiny_model):
    return Bench(tmp_path_factory.mktemp("log"), tiny_model)


@pytest.mark.parametrize("loss", ["contrastive", "margin_ranking"])
def test_training_improves_the_ranking_of_unseen_queries(bench, loss):
    _, found = bench.train({"loss": loss})
    assert found["test_ndcg_at_10"] > bench.evaluator.baseline["test_ndcg_at_10"] + 0.1
    assert found["test_not_irrelevant_dist_shift"] > 0.02


def test_the_same_seed_gives_the_same_model_and_another_seed_another(bench):
    (first, metrics), (again, metrics_again), (other, _) = bench.train(), bench.train(), bench.train(seed=2)
    assert metrics == metrics_again
    states = [encoder.trained_state() for encoder in (first, again, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_the_metrics_are_those_of_the_model_that_is_left(bench):
    encoder, found = bench.train()
    again = bench.evaluator(encoder)
    assert again and all(again[name] == pytest.approx(found[name], abs=1e-6) for name in again)


def test_the_best_evaluated_state_is_kept_not_the_last(bench):
    seen = []
    _, found = bench.train(
        schedule={"evaluations": 4, "main_metric": "test_ndcg_at_10"},
        report=lambda metrics, step: seen.append(metrics["test_ndcg_at_10"]) if "test_ndcg_at_10" in metrics else None,
    )
    assert len(seen) == 4 and found["test_ndcg_at_10"] == max(seen)


@pytest.mark.parametrize(("eligible", "kept"), [([0, 1, 2, 3, 4], 3), ([0, 1, 4], 4), ([0, 1], 0)])
def test_a_state_of_the_first_half_is_no_reason_to_stop_and_only_kept_when_no_later_one_is_eligible(
    bench, eligible, kept
):
    falling = [{"falling": 5.0 - number} for number in range(5)]  # at a sixteenth and so on, a half and the end

    def evaluator(*_, **__):
        return falling[len(seen)]

    seen = []
    schedule = Schedule(epochs=2, evaluations=5, patience=2, main_metric="falling")
    found = train(
        bench.encoder(),
        bench.data,
        evaluator,
        Params(**PARAMS),
        schedule,
        seed=1,
        eligible=lambda metrics: 5.0 - metrics["falling"] in eligible,
        report=lambda metrics, step: seen.append(metrics) if "falling" in metrics else None,
    )
    assert found["falling"] == falling[kept]["falling"] and len(seen) == 5


@pytest.mark.parametrize(("share", "evaluations"), [(0.1, 1), (0.25, 3), (0.9, 2)])
def test_what_is_kept_is_averaged_with_the_start_model_what_is_trained_is_not(bench, share, evaluations):
    seen = []

    def last(metrics):
        seen.append(metrics)
        return len(seen) % evaluations == 0

    schedule = {"evaluations": evaluations}
    plain, _ = bench.train(schedule=schedule, eligible=last)
    averaged, found = bench.train({"averaging": share}, schedule, eligible=last)
    start, trained, kept = (encoder.trained_state() for encoder in (bench.encoder(), plain, averaged))
    assert not all(torch.equal(trained[name], start[name]) for name in start)
    for name in start:
        torch.testing.assert_close(kept[name], (1 - share) * trained[name] + share * start[name], rtol=0, atol=1e-6)
    again = bench.evaluator(averaged)
    assert all(again[name] == pytest.approx(found[name], abs=1e-6) for name in again)


def test_what_is_kept_is_the_average_of_the_weights_of_the_last_steps(bench):
    encoder, average, steps = bench.encoder(), {}, 0

    def follow(metrics, step):
        nonlocal average, steps
        if step == steps:  # an evaluation
            return
        steps = step
        for name, now in encoder.trained_state().items():
            average[name] = average.get(name, 0) + 9 / (step + 8) * (now - average.get(name, 0))

    params, schedule = Params(**PARAMS), Schedule(2, 1, 1, MAIN)
    train(encoder, bench.data, bench.evaluator, params, schedule, seed=1, report=follow)
    assert steps >= 10
    for name, kept in encoder.trained_state().items():
        torch.testing.assert_close(kept, average[name], rtol=0, atol=1e-6)


def test_with_a_memory_training_still_improves_the_ranking_and_is_another(bench):
    (_, plain), (_, found) = bench.train(), bench.train({"memory": 1.0})
    assert found["test_ndcg_at_10"] > bench.evaluator.baseline["test_ndcg_at_10"] + 0.1
    assert found["test_ndcg_at_10"] != plain["test_ndcg_at_10"]


def test_distillation_keeps_the_model_near_the_start_model(bench):
    (plain, found), (near, near_found) = bench.train(), bench.train({"distillation": 100.0})
    start = bench.encoder()
    rows = np.arange(len(bench.data.texts))
    with torch.no_grad():
        before, far, kept = (each.encode(rows) @ each.encode(rows).T for each in (start, plain, near))
    assert (kept - before).abs().mean() < (far - before).abs().mean() / 3
    assert near_found["test_ndcg_at_10"] < found["test_ndcg_at_10"]


def test_what_the_start_model_thinks_is_known_of_all_that_is_trained_on(bench, tmp_path):
    rows = bench.data.trained_on
    assert set(rows) >= {*bench.data.train.query, *bench.data.train.result}
    found = embed_by_start_model(bench.encoder(), rows, tmp_path, max_length=8)
    with torch.no_grad():
        expected = bench.encoder().encode(rows, max_length=8)
    torch.testing.assert_close(found[rows], expected, rtol=0, atol=1e-6)
    assert not list(tmp_path.iterdir())


def test_without_the_start_model_there_is_nothing_to_distil(bench):
    with pytest.raises(ValueError, match="start model"):
        bench.train({"distillation": 0.2}, start_embeddings=None)


def test_a_metric_can_be_minimised(bench):
    seen = []
    _, found = bench.train(
        schedule={"evaluations": 3, "main_metric": "test_loss", "maximize": False},
        report=lambda metrics, step: seen.append(metrics["test_loss"]) if "test_loss" in metrics else None,
    )
    assert found["test_loss"] == min(seen)


def test_an_ineligible_state_is_only_kept_when_all_are(bench):
    seen = []

    def report(metrics, step):
        if MAIN in metrics:
            seen.append(metrics[MAIN])

    encoder, found = bench.train(report=report, eligible=lambda metrics: metrics[MAIN] <= seen[0] if seen else True)
    assert found[MAIN] == seen[0] < seen[1]
    assert bench.evaluator(encoder)[MAIN] == pytest.approx(seen[0], abs=1e-6)
    _, found = bench.train(eligible=lambda metrics: False)
    assert found[MAIN] == max(seen)


def test_a_run_that_no_longer_improves_stops(bench):
    steps = []
    bench.train(
        {"query_lr": 1e-12, "items_lr": 1e-12},
        {"epochs": 50, "evaluations": 20, "patience": 2, "main_metric": "test_ndcg_at_10"},
        report=lambda metrics, step: steps.append(step),
    )
    assert max(steps) == 27 * -(-len(bench.data.train) // PARAMS["batch_size"])


def test_steps_grow_and_every_step_reports_its_loss(bench):
    reports = []
    bench.train(report=lambda metrics, step: reports.append((step, set(metrics))))
    steps = [step for step, names in reports if names == {"train_loss"}]
    assert steps == list(range(1, len(steps) + 1))
    assert sum(MAIN in names for _, names in reports) == 2


class Stop(Exception):
    pass


@pytest.mark.parametrize("calls", [1, 5, 12])
def test_a_cancel_is_obeyed_at_the_next_check(bench, calls):
    checks, reports = [], []

    def check():
        checks.append(1)
        if len(checks) == calls:
            raise Stop

    with pytest.raises(Stop):
        bench.train(check=check, report=lambda metrics, step: reports.append(step))
    assert len(checks) == calls and len(reports) < calls


def test_what_a_report_raises_ends_the_run(bench):
    def report(metrics, step):
        if MAIN in metrics:
            raise Stop

    with pytest.raises(Stop):
        bench.train(report=report)


def test_a_loss_that_is_no_number_is_named(bench):
    with pytest.raises(LossDiverged, match="nan at step"):
        bench.train({"query_lr": 1e30, "items_lr": 1e30})


def test_nothing_to_learn_from_is_a_clear_error(bench, tmp_path):
    empty = write_snapshot(tmp_path, [])
    data = make_training_data(read_log(empty.sessions(), empty.items()))
    params, schedule = Params(**PARAMS), Schedule(1, 1, 1, MAIN)
    with pytest.raises(ValueError, match="no session to learn from"):
        train(bench.encoder(), data, bench.evaluator, params, schedule, seed=0)


def test_a_main_metric_that_the_data_cannot_give_is_a_clear_error(tmp_path, tiny_model):
    sessions = [{**session, "is_irrelevant": False} for session in made_up_sessions(100)]
    snapshot = write_snapshot(tmp_path, sessions, made_up_items())
    data = make_training_data(read_log(snapshot.sessions(), snapshot.items()))
    tokens = tokenize(load_model(tiny_model), data.texts, queries=data.queries)
    encoder = Encoder(load_model(tiny_model), tokens)
    schedule = Schedule(1, 1, 1, "test_irrelevant_dist_shift")
    with pytest.raises(ValueError, match="test_irrelevant_dist_shift"):
        train(encoder, data, Evaluator(data, encoder), Params(**PARAMS), schedule, seed=0)


def test_training_through_the_cache_is_training_without_it(bench, tmp_path):
    params = {"num_fixed_layers": 2}
    (_, plain), (_, cached) = bench.train(params), bench.train(params, cache=PrefixCache(tmp_path, max_bytes=10**8))
    for name in ("test_ndcg_at_10", MAIN, "test_loss"):
        assert cached[name] == pytest.approx(plain[name], abs=0.02)


def test_training_in_bfloat16_is_training_in_fp32_within_tolerance(tmp_path, tiny_model):
    exact, rough = (Bench(tmp_path / name, tiny_model, name).train()[1] for name in ("fp32", "bf16"))
    for name in ("test_ndcg_at_10", MAIN):
        assert rough[name] == pytest.approx(exact[name], abs=0.03)


def test_the_start_model_is_the_zero_of_every_shift_and_its_ranking_is_measured(bench):
    baseline = bench.evaluator.baseline
    assert all(value == 0 for name, value in baseline.items() if "shift" in name)
    model = load_model(bench.model)
    held_out, texts = bench.data.held_out, bench.data.texts
    ranks = []
    for at in np.flatnonzero(~held_out.irrelevant):
        part = slice(held_out.starts[at], held_out.starts[at + 1])
        query = model.encode_query([texts[held_out.query[at]]])
        scores = (query @ model.encode_document([texts[row] for row in held_out.result[part]]).T)[0]
        ranks.append(1 / (1 + min(np.flatnonzero(held_out.clicked[part][np.argsort(-scores)]))))
    assert baseline["test_mrr"] == pytest.approx(np.mean(ranks), abs=0.02)


def test_the_ranking_metrics_weigh_clicks_by_the_propensity_of_the_data(bench):
    data = bench.data
    found = {
        exponent: Evaluator(replace(data, propensity=Propensity(exponent, "set")), bench.encoder())
        for exponent in (0.0, 0.5, 2.0)
    }
    assert len({each.baseline["test_ndcg_at_10"] for each in found.values()}) == 3
    held_out = data.held_out
    for exponent, evaluator in found.items():
        weights = np.minimum(held_out.position[held_out.clicked].astype(float) ** exponent, 10)
        np.testing.assert_allclose(evaluator.gains["test"][held_out.clicked], weights)


def test_training_weighs_clicks_by_the_propensity_of_the_data(bench):
    """With an exponent of 0 all clicks weigh the same, as they do without inverse propensities."""
    steps = {}
    for name, weighed, exponent in (("plain", False, 1.0), ("flat", True, 0.0), ("weighed", True, 1.0)):
        data = replace(bench.data, propensity=Propensity(exponent, "set"))
        seen = []
        train(
            bench.encoder(),
            data,
            bench.evaluator,
            Params(**PARAMS, inverse_propensity=weighed),
            Schedule(1, 1, 1, MAIN),
            seed=1,
            report=lambda metrics, step, seen=seen: seen.append(metrics["train_loss"]),
        )
        steps[name] = seen
    assert steps["plain"] == steps["flat"]
    assert all(one != other for one, other in zip(steps["plain"][:3], steps["weighed"][:3], strict=True))


def test_replay_trains_on_earlier_sessions_as_well(bench, tmp_path):
    earlier = write_snapshot(tmp_path, made_up_sessions(seed=1)).sessions()
    snapshot = write_snapshot(tmp_path / "batch")
    data = make_training_data(read_log(snapshot.sessions(), snapshot.items(), earlier=earlier))
    tokens = tokenize(load_model(bench.model), data.texts, queries=data.queries)
    steps = {}
    for share in (0.0, 0.5):
        encoder = Encoder(load_model(bench.model), tokens)
        seen = []
        train(
            encoder,
            data,
            Evaluator(data, encoder, background=32),
            Params(**PARAMS, replay=share),
            Schedule(1, 1, 1, MAIN),
            seed=1,
            report=lambda metrics, step, seen=seen: seen.append(step),
        )
        steps[share] = max(seen)
    assert steps[0.0] == -(-len(data.train) // 32)
    assert steps[0.5] == -(-(len(data.train) + round(len(data.earlier) / 2)) // 32)


def test_training_takes_for_negatives_what_was_seen(bench):
    losses = []
    for seen_only in (False, True):
        reports = []
        bench.train(
            {"seen_only": seen_only, "loss": "margin_ranking", "negative_downsampling": 1.0},
            {"epochs": 1, "evaluations": 1},
            report=lambda metrics, step, reports=reports: reports.append(metrics["train_loss"]),
        )
        losses.append(reports[0])
    assert losses[0] != losses[1]


def test_the_distance_shift_is_read_against_the_background(bench):
    encoder = bench.encoder()
    module = encoder.model[0]
    found = bench.evaluator(encoder)
    assert found[MAIN] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():  # every text at one point: all similarities are 1, and nothing is told apart
        for parameter in module.parameters():
            parameter.zero_()
        module.auto_model.encoder.layer[-1].output.LayerNorm.bias.fill_(1.0)
    found = bench.evaluator(encoder)
    assert found["test_not_irrelevant_dist_shift_raw"] > 0
    assert found[MAIN] < found["test_not_irrelevant_dist_shift_raw"]
