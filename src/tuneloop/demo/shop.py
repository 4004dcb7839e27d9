"""The made-up shop as a whole: one object that gives the catalogue, the past, the searches and the truth."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tuneloop.demo.articles import Article, make_articles
from tuneloop.demo.assortment import COLOURS, STYLES, TYPES
from tuneloop.demo.customers import Customers, make_customers
from tuneloop.demo.intents import Intents, make_intents
from tuneloop.demo.lexicon import Concept, Lexicon, concepts
from tuneloop.demo.parameters import ShopParameters
from tuneloop.demo.predictions import make_splits
from tuneloop.demo.purchases import History, Simulation
from tuneloop.demo.searches import HeldOutQuery, Searches, SearchSession
from tuneloop.demo.tables import make_tables

_LIKING = 0.8  # how strongly a taste shows in what is searched for


class Shop:
    """A fashion shop that never was; the same parameters always give the same one.

    Example:
        >>> shop = Shop(ShopParameters(articles=500, customers=100))
        >>> shop.articles[0].object_id
        'art-0001'
    """

    def __init__(self, parameters: ShopParameters | None = None) -> None:
        self.parameters = parameters or ShopParameters()

    @cached_property
    def articles(self) -> tuple[Article, ...]:
        """The catalogue."""
        return make_articles(self.parameters)

    @cached_property
    def customers(self) -> Customers:
        """Everybody who was a customer in the two years."""
        return make_customers(self.parameters)

    @cached_property
    def history(self) -> History:
        """Purchases and returns of the two years."""
        return Simulation(self.parameters, self.articles, self.customers).run()

    @cached_property
    def lexicon(self) -> Lexicon:
        """The shoppers' words."""
        return Lexicon(self.parameters)

    @cached_property
    def intents(self) -> Intents:
        """What shoppers look for."""
        return make_intents(self.parameters, self.articles)

    @cached_property
    def held_out(self) -> tuple[HeldOutQuery, ...]:
        """The queries to measure with; no session of any round asks for their intents."""
        return self._searches.held_out()

    def sessions(self, round_: int) -> Iterator[SearchSession]:
        """The search sessions of a round (0, 1, …), which come after the two years and after earlier rounds."""
        return self._searches.sessions(round_)

    def items(self) -> Iterator[dict[str, object]]:
        """The articles as the service takes them."""
        return (article.item() for article in self.articles)

    def tables(self) -> dict[str, pa.Table]:
        """The past as tables: customers, articles, transactions, returns; see `tables.make_tables`."""
        return make_tables(self.parameters, self.articles, self.customers, self.history)

    def write_tables(self, folder: Path) -> None:
        """Write `tables()` as Parquet files into a folder, which is made where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in self.tables().items():
            pq.write_table(table, folder / f"{name}.parquet")

    def write_splits(self, folder: Path) -> None:
        """Write the examples of what there is to predict, `churn/train.parquet` and so on; see `make_splits`."""
        for task, splits in make_splits(self.parameters, self.tables()["transactions"]).items():
            (folder / task).mkdir(parents=True, exist_ok=True)
            for name, examples in splits.items():
                pq.write_table(examples, folder / task / f"{name}.parquet")

    def write(self, folder: Path, *, rounds: int = 1) -> None:
        """Write everything that benchmarks need.

        `items.jsonl` and `sessions.jsonl` (of the first `rounds` rounds) in the service's import formats,
        `heldout.jsonl` with `{query_id, query, words, relevance}`, `parameters.json`, and `tables/*.parquet`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        sessions = (session.line() for round_ in range(rounds) for session in self.sessions(round_))
        _write_lines(folder / "items.jsonl", self.items())
        _write_lines(folder / "sessions.jsonl", sessions)
        _write_lines(folder / "heldout.jsonl", (_held_out_line(held) for held in self.held_out))
        (folder / "parameters.json").write_text(json.dumps(asdict(self.parameters), indent=2, default=str) + "\n")
        self.write_tables(folder / "tables")

    @cached_property
    def _searches(self) -> Searches:
        return Searches(self.parameters, self.articles, self.lexicon, self.intents, self._shoppers())

    def _shoppers(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Who has not left, and what each likes on the last day, by concept."""
        customers, day = self.customers, self.parameters.days
        stayed = np.flatnonzero(self.history.left < 0)
        column = {concept: index for index, concept in enumerate(concepts())}
        liking = np.zeros((len(stayed), len(column)))
        tastes = {
            "type": ([type_.name for type_ in TYPES], customers.types[stayed] / 2),
            "style": (list(STYLES), customers.style.weights(stayed, day, len(STYLES))),
            "colour": (list(COLOURS), customers.colour.weights(stayed, day, len(COLOURS))),
        }
        for facet, (values, liked) in tastes.items():
            liking[:, [column[Concept(facet, value)] for value in values]] = _LIKING * liked
        return tuple(customers.ids[index] for index in stayed), liking


def _held_out_line(held: HeldOutQuery) -> dict[str, Any]:
    return {
        "query_id": held.query_id,
        "query": held.query.text,
        "words": held.query.words,
        "relevance": held.relevance,
    }


def _write_lines(path: Path, lines: Iterable[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
