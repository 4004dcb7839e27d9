"""Batches of different topics in a row: what was learnt of the first outlives the others."""

import random
from dataclasses import replace

import pytest

from support.models import TINY_PARAMS, TOPICS, made_up_items, made_up_sessions, write_snapshot
from tuneloop.search.data import make_training_data
from tuneloop.search.encoder import Encoder
from tuneloop.search.evaluate import Evaluator
from tuneloop.search.model import load_model
from tuneloop.search.sessions import read_log
from tuneloop.search.tokens import tokenize
from tuneloop.search.train import Params, Schedule, train

BATCHES = 5
MAIN = "test_ndcg_at_10"
PARAMS = Params(
    query_weight_decay=0.01,
    items_weight_decay=0.01,
    margin=0.0,
    temperature=0.08,
    robustness=0.5,
    not_irrelevant_only=True,
    negative_downsampling=0.3,
    **{**TINY_PARAMS, "query_lr": 1e-2, "items_lr": 1e-2},  # fast enough to forget
)


def batches():
    """Made-up sessions in five batches, by the topics that their queries ask for: four each."""
    found = [[] for _ in range(BATCHES)]
    for session in made_up_sessions(2000):
        topic = int(session["search_query"].split()[0].removeprefix("slang"))
        found[topic * BATCHES // TOPICS].append(session)
    return found


class Course:
    """A model that learns one batch after the other."""

    def __init__(self, folder, start):
        self.folder, self.start, self.batches = folder, start, batches()
        self.logs = [write_snapshot(folder / str(at), batch).sessions() for at, batch in enumerate(self.batches)]
        self.items = write_snapshot(folder / "items", [], made_up_items()).items()

    def data(self, at):
        """The batch, with as many sessions of the earlier ones."""
        earlier = [session for batch in self.batches[:at] for session in batch]
        sample = random.Random(at).sample(earlier, min(len(earlier), len(self.batches[at])))
        snapshot = write_snapshot(self.folder / "earlier", sample)
        return make_training_data(read_log(self.logs[at], self.items, earlier=snapshot.sessions()))

    def encoder(self, model, data):
        return Encoder(model, tokenize(model, data.texts, queries=data.queries))

    def learn(self, params):
        """The held-out nDCG@10 of the first batch: by the start model, after that batch, and after all."""
        model = load_model(self.start)
        first = self.data(0)
        judge = Evaluator(first, self.encoder(model, first), background=32)
        found = [judge.baseline[MAIN]]
        for at in range(BATCHES):
            data = self.data(at)
            encoder = self.encoder(model, data)
            train(encoder, data, Evaluator(data, encoder, background=32), params, Schedule(3, 2, 2, MAIN), seed=1)
            found.append(judge(self.encoder(model, first))[MAIN])
        return found


@pytest.fixture(scope="module")
def course(tmp_path_factory, tiny_model):
    return Course(tmp_path_factory.mktemp("course"), tiny_model)


def test_after_five_topics_in_a_row_the_first_is_still_ranked_better_than_by_the_start_model(course):
    start, learnt, *_, forgetful = course.learn(PARAMS)
    assert learnt > start + 0.2 and forgetful < learnt - 0.1
    assert course.learn(replace(PARAMS, replay=0.5))[-1] > start + 0.15
