"""The shop's past as relational tables. That a customer left stands in no column: it shows in the history alone."""

from typing import Any

import numpy as np
import pyarrow as pa

from tuneloop.demo.articles import Article
from tuneloop.demo.customers import Customers
from tuneloop.demo.lexicon import FACETS
from tuneloop.demo.parameters import ShopParameters
from tuneloop.demo.purchases import History


class Calendar:
    """Days, counted from the shop's first, as dates."""

    def __init__(self, parameters: ShopParameters) -> None:
        self._first = np.datetime64(parameters.first_day, "D")

    def __getitem__(self, days: Any) -> Any:
        """The date of a day or of an array of days."""
        return self._first + np.asarray(days)


def make_tables(
    parameters: ShopParameters, articles: tuple[Article, ...], customers: Customers, history: History
) -> dict[str, pa.Table]:
    """The tables by name, rows in time order, dates without a time of day.

    customers: customer_id, joined, age, region. articles: article_id, the attributes, brand, price, text, launched.
    transactions: transaction_id, customer_id, article_id, t_dat, price, channel. returns: transaction_id, customer_id,
    article_id, t_dat (the day it came back).
    """
    dates = Calendar(parameters)
    ids = np.array([f"trx-{number + 1:06d}" for number in range(len(history.day))])
    who = np.array(customers.ids)[history.customer]
    what = np.array([article.object_id for article in articles])[history.article]
    returned = np.array(history.returned)
    # What comes back after the last day has not come back yet.
    back = np.flatnonzero((returned >= 0) & (returned < parameters.days))
    back = back[np.argsort(returned[back], kind="stable")]
    people = {
        "customer_id": customers.ids,
        "joined": dates[customers.joined],
        "age": customers.age,
        "region": [f"R{region:02d}" for region in customers.region],
    }
    transactions = {
        "transaction_id": ids,
        "customer_id": who,
        "article_id": what,
        "t_dat": dates[history.day],
        "price": history.price,
        "channel": np.where(history.online, "online", "store"),
    }
    returns = {
        "transaction_id": ids[back],
        "customer_id": who[back],
        "article_id": what[back],
        "t_dat": dates[returned[back]],
    }
    return {
        "customers": _table(people),
        "articles": _table(_articles(articles, dates)),
        "transactions": _table(transactions),
        "returns": _table(returns),
    }


def _articles(articles: tuple[Article, ...], dates: Calendar) -> dict[str, Any]:
    columns = {facet: [getattr(article, facet) or None for article in articles] for facet in FACETS}
    return {
        "article_id": [article.object_id for article in articles],
        **columns,
        "brand": [article.brand for article in articles],
        "price": [article.price for article in articles],
        "text": [article.text for article in articles],
        "launched": dates[[article.launched for article in articles]],
    }


def _table(columns: dict[str, Any]) -> pa.Table:
    return pa.table({name: pa.array(values) for name, values in columns.items()})
