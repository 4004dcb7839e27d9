"""Search sessions: what shoppers type, what they are shown, and what they click.

A click on a result with grade g (2, 1, 0) at position p happens with probability click_grade[g] / p ** position_bias;
the click on a result with grade 0 is the mistake. Held-out queries ask for intents that no session of any round asks
for, in words that each occur in sessions of round 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

import numpy as np

from tuneloop.demo.articles import Article, concept_matrix
from tuneloop.demo.engine import HouseEngine
from tuneloop.demo.intents import Intents
from tuneloop.demo.lexicon import Concept, Lexicon, concepts
from tuneloop.demo.parameters import ShopParameters, pick

_PHRASES = ("{} please", "looking for {}", "{} on sale", "new {}", "need {}", "best {}")
_BARE = 0.75  # share of the queries without such a phrase
_USUAL_ORDER = 0.75  # share of the queries that end with what kind of thing is sought
_SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Query:
    """A query as typed, the words in it that carry meaning, and the intent behind it (a row of `Intents`)."""

    text: str
    words: tuple[str, ...]
    intent: int


@dataclass(frozen=True)
class SearchSession:
    """One search: `results` are pairs of object id and score, `events` triples of object id, type and time."""

    session_id: str
    query: Query
    user_id: str | None
    created_at: int
    results: tuple[tuple[str, float], ...]
    events: tuple[tuple[str, str, int], ...] = ()
    is_irrelevant: bool = False

    def line(self) -> dict[str, Any]:
        """The session as the service imports it, times in Unix seconds."""
        events = [
            {"event_id": f"{self.session_id}-{number}", "object_id": object_id, "event_type": kind, "created_at": at}
            for number, (object_id, kind, at) in enumerate(self.events)
        ]
        return {
            "session_id": self.session_id,
            "search_query": self.query.text,
            "search_results": [{"object_id": object_id, "rank": score} for object_id, score in self.results],
            "user_id": self.user_id,
            "created_at": self.created_at,
            "events": events,
            "is_irrelevant": self.is_irrelevant,
        }


@dataclass(frozen=True)
class HeldOutQuery:
    """A query to measure with: `relevance` holds the grade, 2 or 1, of every article that is relevant at all."""

    query_id: str
    query: Query
    relevance: dict[str, int] = field(repr=False)


class Searches:
    """The shoppers at their search box.

    `shoppers` are the ids of those who are still customers and how much each likes each concept,
    shape (shoppers, concepts).
    """

    def __init__(
        self,
        parameters: ShopParameters,
        articles: tuple[Article, ...],
        lexicon: Lexicon,
        intents: Intents,
        shoppers: tuple[tuple[str, ...], np.ndarray],
    ) -> None:
        self._parameters, self._articles, self._lexicon, self._intents = parameters, articles, lexicon, intents
        self._engine = HouseEngine(parameters, concept_matrix(articles), tuple(lexicon.invented))
        self._columns = {concept: column for column, concept in enumerate(concepts())}
        self._users, liking = shoppers
        asks = np.array([[concept in wanted for concept in self._columns] for wanted in intents.concepts])
        weights = np.cumsum(intents.popularity * ~intents.held_out * np.exp(liking @ asks.T), axis=1)
        self._chances = weights / weights[:, -1:]  # (shoppers, intents), cumulative

    def sessions(self, round_: int) -> Iterator[SearchSession]:
        """The sessions of a round in time order, with ids `demo-{round}-{n}`."""
        parameters, rng = self._parameters, self._parameters.rng("sessions", round_)
        number = parameters.sessions_per_round
        begin = datetime.combine(parameters.last_day + timedelta(days=1 + round_ * parameters.round_days), time(), UTC)
        moments = np.sort(rng.uniform(0, parameters.round_days * _SECONDS_A_DAY, number)).astype(int)
        shoppers = rng.integers(len(self._users), size=number)
        for index, (moment, shopper) in enumerate(zip(moments, shoppers, strict=True)):
            query = self._ask(rng, self._want(rng, int(shopper)))
            yield self._search(
                rng,
                session_id=f"demo-{round_}-{index}",
                query=query,
                user_id=None if rng.random() < parameters.anonymous else self._users[shopper],
                created_at=int(begin.timestamp()) + int(moment),
            )

    def held_out(self) -> tuple[HeldOutQuery, ...]:
        """Queries for measuring, each with at least one invented word, the same for all rounds."""
        parameters, rng = self._parameters, self._parameters.rng("held-out")
        known = {word for session in self.sessions(0) for word in session.query.words}
        asked: dict[str, Query] = {}
        choices = np.flatnonzero(self._intents.held_out)
        while len(asked) < parameters.held_out_queries:
            query = self._ask(rng, int(rng.choice(choices)))
            if any(word in self._lexicon.invented for word in query.words) and known.issuperset(query.words):
                asked.setdefault(query.text, query)
        return tuple(
            HeldOutQuery(f"held-{number:03d}", query, self.relevance(query.intent))
            for number, query in enumerate(asked.values())
        )

    def relevance(self, intent: int) -> dict[str, int]:
        """The grade of every article that is relevant to an intent."""
        grades = self._intents.grades[intent]
        return {self._articles[index].object_id: int(grades[index]) for index in np.flatnonzero(grades)}

    def _want(self, rng: np.random.Generator, shopper: int) -> int:
        """An intent, never a held-out one: the more popular and the nearer to the shopper's taste the likelier."""
        return int(np.searchsorted(self._chances[shopper], rng.random()))

    def _ask(self, rng: np.random.Generator, intent: int) -> Query:
        wanted = sorted(self._intents.concepts[intent])
        if rng.random() < _USUAL_ORDER:
            wanted.sort(key=lambda concept: (concept.facet == "type", concept))
        else:
            wanted = [wanted[int(index)] for index in rng.permutation(len(wanted))]
        words = tuple(self._say(rng, concept) for concept in wanted)
        phrase = "{}" if rng.random() < _BARE else pick(rng, _PHRASES)
        return Query(phrase.format(" ".join(words)), words, intent)

    def _say(self, rng: np.random.Generator, concept: Concept) -> str:
        words = self._lexicon.words[concept]
        return pick(rng, words.invented if rng.random() < self._parameters.invented_share else words.plain)

    def _search(
        self, rng: np.random.Generator, *, session_id: str, query: Query, user_id: str | None, created_at: int
    ) -> SearchSession:
        parameters = self._parameters
        understood = query.intent
        if rng.random() < parameters.misread:
            understood = int(rng.integers(len(self._intents.concepts)))
        shown, scores = self._show(rng, query, understood)
        grades = self._intents.grades[query.intent][shown]
        ids = [self._articles[index].object_id for index in shown]
        results = tuple((object_id, round(float(score), 4)) for object_id, score in zip(ids, scores, strict=True))
        session = SearchSession(session_id, query, user_id, created_at, results)
        if (grades.max() < 1 or understood != query.intent) and rng.random() < parameters.says_irrelevant:
            return replace(session, is_irrelevant=True)
        if rng.random() < parameters.abandoned:
            return session
        look = np.arange(1, len(shown) + 1) ** -parameters.position_bias
        clicked = np.flatnonzero(rng.random(len(shown)) < np.array(parameters.click_grade)[grades] * look)
        return replace(session, events=tuple(self._react(rng, ids, grades, clicked, created_at)))

    def _show(self, rng: np.random.Generator, query: Query, understood: int) -> tuple[np.ndarray, np.ndarray]:
        if understood != query.intent:
            return self._engine.search(
                rng, [self._columns[concept] for concept in self._intents.concepts[understood]], []
            )
        invented = self._lexicon.invented
        said = [(word, self._columns[invented[word]]) for word in query.words if word in invented]
        named = {column for _, column in said}
        plain = [self._columns[concept] for concept in sorted(self._intents.concepts[query.intent])]
        return self._engine.search(rng, [column for column in plain if column not in named], said)

    def _react(
        self, rng: np.random.Generator, ids: list[str], grades: np.ndarray, clicked: np.ndarray, created_at: int
    ) -> Iterator[tuple[str, str, int]]:
        """Clicks, and for what is just right sometimes the cart and the purchase."""
        at = created_at
        for index in clicked:
            at += int(rng.integers(3, 40))
            yield ids[index], "click", at
            if grades[index] == 2 and rng.random() < self._parameters.to_cart:
                yield ids[index], "add_to_cart", at + 20
                if rng.random() < self._parameters.to_purchase:
                    yield ids[index], "purchase", at + 120
