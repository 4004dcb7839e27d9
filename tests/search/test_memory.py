import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.search.data import Sampler
from tuneloop.search.memory import Memory
from tuneloop.search.sessions import Sessions

SHAPE = {"margin": 0.0, "temperature": 0.1, "robustness": 0.0}
QUERIES = 6
# Query q clicked item 6 + q and was shown item 12 as well; query 5 clicked what query 4 did.
SESSIONS = Sessions(
    query=np.arange(QUERIES),
    irrelevant=np.zeros(QUERIES, bool),
    starts=np.arange(0, 2 * QUERIES + 1, 2),
    result=np.array([[6 + min(q, 4), 12] for q in range(QUERIES)]).ravel(),
    clicked=np.array([[True, False]] * QUERIES).ravel(),
    position=np.array([[1, 2]] * QUERIES).ravel(),
)
SAMPLER = Sampler(SESSIONS, batch_size=2, negative_share=1)


def batch_of(*sessions):
    return SAMPLER.batch(np.array(sessions), np.random.default_rng(0))


def embeddings_of(batch, seed=0):
    found = torch.randn(len(batch.queries) + len(batch.items), 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(found, dim=1).requires_grad_(True)


@given(steps=st.lists(st.lists(st.integers(0, QUERIES - 1), min_size=1, max_size=3, unique=True), max_size=12),
       size=st.integers(1, 12))  # fmt: skip
def test_the_latest_embeddings_of_the_latest_texts_are_remembered(steps, size):
    memory, latest = Memory(SAMPLER, size=size), {}
    for number, sessions in enumerate(steps):
        batch = batch_of(*sessions)
        embeddings = embeddings_of(batch, number)
        memory.put(embeddings, batch)
        latest |= dict(zip([*batch.queries, *batch.items], embeddings.detach(), strict=True))
    for kind, own in ((memory._queries, range(QUERIES)), (memory._items, range(QUERIES, 13))):
        seen = [row for row in latest if row in own]
        assert len(kind.rows) == min(len(seen), size) == len(set(kind.rows))
        assert set(kind.rows) <= set(seen)
        for row, embedding in zip(kind.rows, kind.embeddings, strict=True):
            assert torch.equal(embedding, latest[row]) and kind.rows[kind.place[row]] == row
        assert (kind.place >= 0).sum() == len(kind.rows)


def cost_of_session_4(near_query, near_item):
    """What session 4 (query 4, item 10) costs with one remembered item at its query and one query at its item."""
    memory, everything, batch = Memory(SAMPLER), batch_of(*range(QUERIES)), batch_of(4)
    remembered = torch.zeros(len(everything.queries) + len(everything.items), 4)
    rows = [*everything.queries, *everything.items]
    if near_item is not None:
        remembered[rows.index(near_item), 0] = 1
    if near_query is not None:
        remembered[rows.index(near_query), 1] = 1
    memory.put(remembered, everything)
    own = torch.eye(4)[[0, *([1] * len(batch.items))]]
    return float(memory.loss(own, batch, **SHAPE))


def test_it_costs_less_near_to_what_was_clicked_and_more_near_to_others():
    neither = cost_of_session_4(None, None)
    assert cost_of_session_4(None, 10) < neither < cost_of_session_4(None, 7)
    assert cost_of_session_4(4, None) < neither < cost_of_session_4(2, None)
    assert cost_of_session_4(None, 12) > neither  # shown to it, not clicked
    assert cost_of_session_4(5, None) == neither  # another query that the item was clicked for


def test_gradients_reach_what_was_encoded_alone():
    memory, batch = Memory(SAMPLER), batch_of(0, 1)
    old = embeddings_of(batch)
    memory.put(old, batch)
    new = embeddings_of(batch, 1)
    memory.loss(new, batch, **SHAPE).backward()
    assert old.grad is None and new.grad.abs().sum() > 0


def test_without_memories_there_is_nothing_to_tell():
    batch = batch_of(0, 1)
    assert Memory(SAMPLER).loss(embeddings_of(batch), batch, **SHAPE) == 0
