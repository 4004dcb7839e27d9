"""What the demo learns from the shop's tables: who will stay away, and what customers will buy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tuneloop.client import Client, Job, Task
from tuneloop.demo.journey import DemoError
from tuneloop.demo.predictions import CHURN_DAYS, PURCHASE_DAYS
from tuneloop.demo.shop import Shop
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.schema import SPLITS, CandidateKey, ForeignKey, LinkTask, NodeTask, Splits, Table

# Small enough for a laptop: boosted trees alone, a few settings.
SETTINGS: dict[str, Any] = {"max_runs": 2, "max_minutes": 0.7, "learners": ["boosted"]}
CHURN, PURCHASES = "churn", "next-purchases"
_CUSTOMER = ForeignKey("customer_id", link_to="customers.customer_id")
_ARTICLE = ForeignKey("article_id", link_to="articles.article_id")


def shop_tables(folder: Path) -> list[Table]:
    """The shop's tables as files of a folder."""

    def source(name: str) -> str:
        return str(folder / f"{name}.parquet")

    return [
        Table(
            "customers",
            source=source("customers"),
            time_column="joined",
            candidate_keys=[CandidateKey("customer_id")],
        ),
        Table(
            "articles",
            source=source("articles"),
            time_column="launched",
            candidate_keys=[CandidateKey("article_id")],
        ),
        Table(
            "transactions",
            source=source("transactions"),
            time_column="t_dat",
            candidate_keys=[CandidateKey("transaction_id")],
            foreign_keys=[_CUSTOMER, _ARTICLE],
        ),
        Table(
            "returns",
            source=source("returns"),
            time_column="t_dat",
            foreign_keys=[
                ForeignKey("transaction_id", link_to="transactions.transaction_id"),
                _CUSTOMER,
                _ARTICLE,
            ],
        ),
    ]


def churn(folder: Path) -> Dataset:
    """Which of the customers who bought of late will buy nothing in the next 60 days?"""
    task = NodeTask(
        "churn",
        task_type="binary_classification",
        target_entity=_CUSTOMER,
        time_column="timestamp",
        label_column="churn",
        horizon=timedelta(days=CHURN_DAYS),
        source=_splits(folder / "churn"),
    )
    return Dataset("shop", tables=shop_tables(folder), task=task)


def purchases(folder: Path) -> Dataset:
    """What will those who buy in the next 30 days buy?"""
    task = LinkTask(
        "next-purchases",
        task_type="link_prediction",
        source_entity=_CUSTOMER,
        target_entity=_ARTICLE,
        time_column="timestamp",
        horizon=timedelta(days=PURCHASE_DAYS),
        source=_splits(folder / "purchases"),
        evaluation_metric="map_at_12",
    )
    return Dataset("shop", tables=shop_tables(folder), task=task)


def _splits(folder: Path) -> Splits:
    train, validation, test = (str(folder / f"{split}.parquet") for split in SPLITS)
    return Splits(train=train, validation=validation, test=test)


@dataclass(frozen=True)
class Forecast:
    """A model learnt from tables.

    Attributes:
        model: its registered name and version.
        detail: how good it is, in the task's words.
        experiment_url: its page in MLflow.
    """

    model: str
    detail: str
    experiment_url: str | None


class Forecasts:
    """The demo's models of tables: fitted, registered and asked. Every step may be repeated after a kill."""

    def __init__(self, client: Client, shop: Shop, folder: Path) -> None:
        self._client, self._shop = client, shop
        self._folder = folder

    def write_tables(self) -> None:
        """Write the shop's tables as files, which the client sends where the service cannot see them."""
        self._shop.write_tables(self._folder)
        self._shop.write_splits(self._folder)

    def fit(self, name: str, dataset: Dataset, callback: Callable[[Task], None]) -> Forecast:
        """Fit and register; what an earlier demo fitted is taken as it is.

        Raises:
            DemoError: it failed.
        """
        job: Job = self._client.fit(
            dataset, settings=SETTINGS, idempotency_key=f"demo-{name}-{self._shop.parameters.seed}"
        )
        if job.status() in ("error", "canceled"):
            self._client.restart_task(job.id)
        task = self._client.wait(job.id, callback=callback, poll_seconds=0.5)
        if task.status != "done" or task.best_run_id is None:
            raise DemoError(f"learning {name} ended as {task.status}: {task.detail or 'no reason was given'}")
        version = self._version(name, task.best_run_id)
        return Forecast(f"{name}/{version}", task.detail or "", task.experiment_url)

    def most_likely_to_leave(self, forecast: Forecast, count: int) -> list[tuple[str, float]]:
        """Customers who bought lately and are the likeliest to stay away, with the chance."""
        found = self._predict(forecast, self._active())
        chances = {key: float(each["prediction"]) for key, each in found.items()}
        return sorted(chances.items(), key=lambda pair: (-pair[1], pair[0]))[:count]

    def next_purchases(self, forecast: Forecast, customers: Sequence[str]) -> dict[str, list[str]]:
        """The articles that customers are the likeliest to buy, best first."""
        found = self._predict(forecast, customers)
        return {key: [str(link["key"]) for link in each["links"]] for key, each in found.items()}

    def last_purchases(self, customer: str, count: int) -> list[str]:
        """What a customer bought last."""
        history = self._shop.history
        who = self._shop.customers.ids.index(customer)
        rows = [at for at, each in enumerate(history.customer) if each == who][-count:]
        return [self._shop.articles[history.article[at]].object_id for at in reversed(rows)]

    def describe(self, article: str) -> str:
        """An article in a few words."""
        found = next(each for each in self._shop.articles if each.object_id == article)
        return found.text.partition(".")[0]

    def _active(self) -> list[str]:
        """Customers who bought of late."""
        history, ids = self._shop.history, self._shop.customers.ids
        recent = {
            int(who)
            for who, day in zip(history.customer, history.day, strict=True)
            if day >= self._shop.parameters.days - CHURN_DAYS
        }
        return [ids[who] for who in sorted(recent)]

    def _predict(self, forecast: Forecast, customers: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        end = self._shop.tables()["transactions"]["t_dat"][-1].as_py().isoformat()
        entities = [{"customer_id": customer, "timestamp": end} for customer in customers]
        answers = self._client.predict(entities=entities, model=forecast.model)
        return dict(zip(customers, answers, strict=True))

    def _version(self, name: str, run_id: str) -> str:
        known = {model.name: model for model in self._client.models()}.get(name)
        for version in known.versions if known else ():
            if version.run_id == run_id:
                return version.version
        return self._client.register_model(name, run_id=run_id).version
