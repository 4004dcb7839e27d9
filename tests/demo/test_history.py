"""What customers do next depends on their own history: a simple predictor that reads it beats those that do not.

Everything is predicted from the tables, by rows dated at or before a day, as a benchmark would.
"""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

QUIET = 90  # days: who bought in the last ones is a customer, who buys nothing in the next ones has left
AHEAD = 14  # days in which the next purchases are looked for
TOP = 12
MATCH_DAYS = 28


class Past:
    """The tables as arrays, by customer."""

    def __init__(self, shop):
        tables = shop.tables()
        customers = {name: row for row, name in enumerate(tables["customers"]["customer_id"].to_pylist())}
        articles = {name: row for row, name in enumerate(tables["articles"]["article_id"].to_pylist())}
        bought, returned = tables["transactions"], tables["returns"]
        first = np.datetime64(shop.parameters.first_day)
        self.customer = np.array([customers[name] for name in bought["customer_id"].to_pylist()])
        self.article = np.array([articles[name] for name in bought["article_id"].to_pylist()])
        self.day = (bought["t_dat"].to_numpy() - first).astype(int)
        self.articles = len(articles)
        self.values = {
            facet: np.unique(tables["articles"][facet].to_pylist(), return_inverse=True)[1]
            for facet in ("style", "colour", "type")
        }
        price = np.log(tables["articles"]["price"].to_numpy())
        kinds = self.values["type"]
        self.level = price - (np.bincount(kinds, price) / np.bincount(kinds))[kinds]
        self.launched = (tables["articles"]["launched"].to_numpy() - first).astype(int)
        self._rows = [np.flatnonzero(self.customer == row) for row in range(len(customers))]
        back = np.array([customers[name] for name in returned["customer_id"].to_pylist()])
        back_day = (returned["t_dat"].to_numpy() - first).astype(int)
        self._returns = [back_day[back == row] for row in range(len(customers))]

    def of(self, customer, day):
        """What a customer bought until a day: articles, and how many days ago."""
        rows = self._rows[customer]
        rows = rows[self.day[rows] <= day]
        return self.article[rows], day - self.day[rows]

    def returns(self, customer, day):
        """How many days ago each of the customer's returns was."""
        days = self._returns[customer]
        return day - days[days <= day]

    def next(self, customer, day, ahead):
        """What the customer bought in the days after."""
        rows = self._rows[customer]
        return np.unique(self.article[rows[(self.day[rows] > day) & (self.day[rows] <= day + ahead)]])

    def buyers(self, begin, end):
        """Who bought after the first day, until the second."""
        return np.unique(self.customer[(self.day > begin) & (self.day <= end)])


@pytest.fixture(scope="module")
def past(shop):
    with threadpool_limits(1):  # threads that wait for each other are slow on a busy machine
        yield Past(shop)


def test_who_leaves_shows_in_the_whole_history_not_in_recency_alone(past):
    learn = [_churn(past, day) for day in range(180, 541, 60)]
    features, left = np.vstack([rows for rows, _ in learn]), np.concatenate([labels for _, labels in learn])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(features, left)
    later, truth = _churn(past, 635)
    recency = roc_auc_score(truth, later[:, 0])
    history = roc_auc_score(truth, model.predict_proba(later)[:, 1])
    assert 0.05 < truth.mean() < 0.4
    assert history > recency + 0.03
    assert 0.7 < history < 0.95  # worth predicting, and not given away


def test_next_purchase_shows_in_the_history_not_in_popularity_repeats_or_co_occurrence(past):
    rng = np.random.default_rng(0)
    features, labels = [], []
    for day in (250, 320, 390, 460, 530, 600):
        for customer in _sample(rng, past, day, 150):
            rows = _candidates(past, customer, day)
            bought = np.isin(np.arange(past.articles), past.next(customer, day, AHEAD))
            keep = bought | (rows[:, 0] > 0) | (rng.random(past.articles) < 0.1)
            features.append(rows[keep])
            labels.append(bought[keep])
    model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(
        np.vstack(features), np.concatenate(labels)
    )

    day = 640
    owns = np.zeros((past.customer.max() + 1, past.articles), np.float32)
    seen = past.day <= day
    owns[past.customer[seen], past.article[seen]] = 1
    together = owns.T @ owns / np.sqrt(np.outer(owns.sum(0) + 1, owns.sum(0) + 1))
    popular = np.bincount(past.article[seen & (past.day > day - 28)], minlength=past.articles)
    precision = {name: [] for name in ("popularity", "latest", "repeats", "co-occurrence", "history")}
    for customer in _sample(rng, past, day, 300):
        articles, age = past.of(customer, day)
        truth = past.next(customer, day, AHEAD)
        latest, often = np.zeros(past.articles), np.bincount(articles, minlength=past.articles)
        np.maximum.at(latest, articles, 1 / (1 + age))
        scores = {
            "popularity": popular,
            "latest": latest + popular * 1e-6,
            "repeats": often + latest + popular * 1e-6,
            "co-occurrence": together[articles].sum(axis=0),
            "history": model.predict_proba(_candidates(past, customer, day))[:, 1],
        }
        for name, score in scores.items():
            precision[name].append(_average_precision(score, truth))
    found = {name: np.mean(values) for name, values in precision.items()}
    history = found.pop("history")
    assert history > 1.3 * max(found.values()), (history, found)
    assert history < 0.5


def _churn(past, day):
    """Features of each customer of the last 90 days (the first is recency), and who bought nothing in the next 90."""
    customers = past.buyers(day - QUIET, day)
    left = ~np.isin(customers, past.buyers(day, day + QUIET))
    rows = []
    for customer in customers:
        _, age = past.of(customer, day)
        back = past.returns(customer, day)
        gaps = -np.diff(np.unique(age)[::-1]) if len(np.unique(age)) > 1 else np.array([60.0])
        counts = [(age < window).sum() for window in (14, 30, 60, 90, 180, 365)]
        returns = [(back < 30).sum(), (back < 90).sum(), len(back) / len(age), min(back, default=400)]
        slowing = [gaps.mean(), age.min() / gaps.mean(), gaps[-3:].mean() / gaps.mean()]
        rows.append([age.min(), *counts, *returns, *slowing, age.max()])
    return np.array(rows, float), left


def _sample(rng, past, day, number):
    """Customers with a past who buy something in the days ahead."""
    return rng.permutation(np.intersect1d(past.buyers(day, day + AHEAD), past.buyers(-1, day)))[:number]


def _candidates(past, customer, day):
    """Features of every article for a customer on a day; the first is how often the customer bought it."""
    articles, age = past.of(customer, day)
    rows = np.zeros((past.articles, 13), np.float32)
    rows[:, 1:3] = 400, 0
    for article in np.unique(articles):
        ages = np.sort(age[articles == article])
        usual = max(np.median(np.diff(ages)), 3) if len(ages) > 1 else 400
        rows[article, :3] = len(ages), ages[0], ages[0] / usual
    for column, (facet, days) in enumerate(
        (("style", 45), ("style", 10), ("colour", 45), ("colour", 10), ("type", 90))
    ):
        values = past.values[facet]
        liked = np.bincount(values[articles], np.exp(-age / days), minlength=values.max() + 1)
        rows[:, 3 + column] = (liked / (liked.sum() + 1e-9))[values]
    kinds, colours = past.values["type"], past.values["colour"]
    since = np.full(kinds.max() + 1, 400.0)
    np.minimum.at(since, kinds[articles], age)
    rows[:, 8] = since[kinds]
    recent = articles[age <= MATCH_DAYS]
    rows[:, 9] = np.bincount(colours[recent], minlength=colours.max() + 1)[colours]
    sold = past.article[(past.day <= day) & (past.day > day - MATCH_DAYS)]
    rows[:, 10] = np.bincount(kinds[sold], minlength=kinds.max() + 1)[kinds]
    rows[:, 11] = np.abs(past.level - np.median(past.level[articles]))
    rows[:, 12] = past.launched <= day
    return rows


def _average_precision(score, truth):
    hits = np.isin(np.argsort(-score, kind="stable")[:TOP], truth)
    return (hits * np.cumsum(hits) / np.arange(1, TOP + 1)).sum() / min(TOP, len(truth))
