"""Boosted trees for links: what may come next, guessed in several ways, put in order by a ranker."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tuneloop.errors import InvalidInput
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.feature_queries import Feature
from tuneloop.relational.learner import (
    DEFAULT_OPTIONS,
    Fitted,
    Folds,
    Importance,
    Learner,
    Links,
    Options,
    Run,
    Watcher,
)
from tuneloop.relational.link_features import Batch, LinkPlan, LinkWorld, Thin, plan_links
from tuneloop.relational.metrics import measure_links
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.ranker import OBJECTIVES, Ranking, best_first, default_ranking, fit_ranker
from tuneloop.relational.schema import LinkTask

if TYPE_CHECKING:
    import lightgbm as lgb
    import pyarrow as pa
    from optuna import Trial

MAX_EXAMPLES = 20_000  # to learn from
MAX_CANDIDATES = 400_000  # to learn from, negative ones drawn
MIN_COLD = 200  # training examples without earlier links: of fewer their order is not learnt
MAX_IN_MEMORY = 5000  # validation examples; the features of more lie in files
MAX_STOPPING = 1000  # examples to stop early by
_LISTED = 50  # importances


class FittedBoostedLinks(Fitted):
    """A ranker, and how its candidates and features are computed.

    Args:
        plan: what is computed.
        columns: the features.
        booster: puts candidates in order.
        orders_cold: whether also those of examples without earlier links, which otherwise get what is popular.
    """

    learner: ClassVar[str] = "boosted"

    def __init__(self, plan: LinkPlan, columns: Sequence[Feature], booster: lgb.Booster, orders_cold: bool) -> None:
        self.plan, self._columns, self._booster = plan, tuple(columns), booster
        self._orders_cold = orders_cold

    def predict(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> Links:
        """The k likeliest links of each example, k as in the task's metric."""
        assert isinstance(dataset.task, LinkTask)
        world = LinkWorld(dataset, data, self.plan)
        top = _Top(len(examples), dataset.task.k)
        for batch in world.batches(examples, watcher, labelled=False):
            top.put(batch, self.scores(batch))
        return top.links(world.targets.keys)

    def scores(self, batch: Batch) -> NDArray[np.float64]:
        """(P,) of the pairs; they compare within an example."""
        scores = np.asarray(self._booster.predict(batch.values)) if len(batch.values) else np.zeros(0)
        if self._orders_cold:
            return scores
        return np.where(batch.cold[batch.pairs.at], batch.popularity, scores)

    def importances(self) -> Sequence[Importance]:
        """Features by their gain."""
        gains = self._booster.feature_importance("gain")
        shares = gains / max(gains.sum(), 1e-12)
        best = np.argsort(-shares, kind="stable")[:_LISTED]
        return [Importance(self._columns[at].words, self._columns[at].table, float(shares[at])) for at in best]

    def save(self, folder: Path) -> None:
        """`links.json` and `ranker.txt`."""
        columns = [{"name": each.name, "words": each.words, "table": each.table} for each in self._columns]
        document = {"plan": self.plan.document(), "columns": columns, "orders_cold": self._orders_cold}
        (folder / "links.json").write_text(json.dumps(document), encoding="utf-8")
        (folder / "ranker.txt").write_text(self._booster.model_to_string(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        from tuneloop.relational.boosted import _lightgbm

        document = json.loads((folder / "links.json").read_text(encoding="utf-8"))
        booster = _lightgbm().Booster(model_str=(folder / "ranker.txt").read_text(encoding="utf-8"))
        columns = [Feature(**each) for each in document["columns"]]
        return cls(LinkPlan.parse(document["plan"]), columns, booster, document["orders_cold"])


@dataclass(frozen=True)
class _Held:
    """Examples whose candidates were computed.

    Attributes:
        examples: they.
        batches: their pairs, of examples to learn from without most of the negative ones.
    """

    examples: Examples
    batches: Sequence[Batch]

    def ranking(self, *, thin: Thin | None = None, most: int | None = None) -> Ranking | None:
        """The candidates of those examples that have a true one; None where no example has.

        Args:
            thin: which of them.
            most: of so many examples, about, spread over all.
        """
        values, true, sizes = [], [], []
        share = 1.0 if most is None else most / max(len(self.examples), 1)
        for batch in self.batches:
            assert batch.true is not None
            count = len(batch.examples)
            good = np.bincount(batch.pairs.at[batch.true], minlength=count) > 0
            good &= (np.arange(count) * share) % 1 < share
            kept = good[batch.pairs.at]
            if thin is not None:
                kept &= thin(batch.true, count)
            values.append(batch.values[kept])
            true.append(batch.true[kept])
            sizes.append(np.bincount(batch.pairs.at[kept], minlength=count)[good])
        if not values or not sum(map(len, true)):
            return None
        return Ranking(np.concatenate(values), np.concatenate(true), np.concatenate(sizes))


class BoostedLinks(Learner):
    """Links by candidates and a ranker; see `tuneloop.relational.learner.Learner`."""

    name: ClassVar[str] = "boosted"
    fitted: ClassVar[type[Fitted]] = FittedBoostedLinks

    @classmethod
    def can(cls, dataset: Dataset) -> bool:
        """Link tasks."""
        return isinstance(dataset.task, LinkTask)

    def __init__(
        self,
        dataset: Dataset,
        data: OpenTables,
        folds: Folds,
        *,
        seed: int,
        work_dir: Path,
        options: Options = DEFAULT_OPTIONS,
    ) -> None:
        assert isinstance(dataset.task, LinkTask)
        self._dataset, self._data, self._folds, self._seed = dataset, data, folds, seed
        self._task, self._work_dir = dataset.task, work_dir

    def prepare(self, watcher: Watcher) -> None:
        """Read the rows, and compute the candidates of all examples.

        Raises:
            InvalidInput: no table links the task's entities, or there is nothing to learn from.
        """
        watcher.progress("reading links")
        self._plan = plan_links(self._dataset, self._data, self._folds.train)
        self._world = LinkWorld(self._dataset, self._data, self._plan)
        watcher.progress("computing candidates")
        rng = np.random.default_rng(self._seed)
        train = _sample(self._folds.train, MAX_EXAMPLES, rng)
        batches = list(self._world.batches(train, watcher, thin=_thin(len(train), rng)))
        self._train = _Held(train, batches)
        held = enumerate(self._world.batches(self._folds.validation, watcher))
        spill = len(self._folds.validation) > MAX_IN_MEMORY
        in_files = [_spilled(each, self._work_dir / f"validation-{at}.npy") if spill else each for at, each in held]
        self._validation = _Held(self._folds.validation, in_files)
        ranking = self._train.ranking()
        if ranking is None:
            raise InvalidInput(
                "no training example is linked to anything that could be guessed: are the examples' targets keys of "
                f"{self._task.target_entity.link_to}, and are there links before them?",
                field="dataset.task",
            )
        self._ranking = ranking
        self._orders_cold = sum(int(batch.cold.sum()) for batch in batches) >= MIN_COLD
        self._held = self._validation.ranking(most=MAX_STOPPING)
        found, of = sum(int(b.true.sum()) for b in batches if b.true is not None), _count(train)
        watcher.log(
            f"{len(ranking.true):,} candidates of {len(train):,} examples; {found:,} of {of:,} links among them"
        )

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Settings of the ranker."""
        return {
            "objective": trial.suggest_categorical("objective", OBJECTIVES),
            "num_leaves": trial.suggest_int("num_leaves", 7, 63, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.1, log=True),
            "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 20, 300, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.2, 0.8),
            "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 0.95),
            "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 50, log=True),
        }

    def defaults(self) -> dict[str, Any]:
        """Settings that work on most tables."""
        return default_ranking()

    def fit(self, params: Mapping[str, Any], *, seed: int, watcher: Watcher) -> Run:
        """Fit on the training examples, stopping early by the validation examples."""

        def report(round: int, values: Mapping[str, float]) -> None:
            watcher.check()
            if round % 10 == 0:
                watcher.report({"val_metric_map": values["val_map"]}, step=round)

        watcher.progress("fitting")
        columns, k = self._world.columns, self._task.k
        booster = fit_ranker(columns, self._ranking, self._held, params, k=k, seed=seed, report=report)
        fitted = FittedBoostedLinks(self._plan, columns, booster, self._orders_cold)
        top = _Top(len(self._validation.examples), k)
        for batch in self._validation.batches:
            top.put(batch, fitted.scores(batch))
        links = top.links(self._world.targets.keys)
        labels = self._validation.examples.labels
        assert labels is not None
        value = measure_links(self._task.evaluation_metric, labels, links)
        rounds = booster.best_iteration or booster.current_iteration()
        return Run(fitted, value, links, {"rounds": rounds})

    def refit(self, params: Mapping[str, Any], found: Mapping[str, Any], *, seed: int, watcher: Watcher) -> Fitted:
        """Fit on training and validation examples together, as long as `fit` found best."""
        watcher.check()
        train = self._ranking
        thin = _thin(len(self._train.examples), np.random.default_rng(self._seed))
        if (more := self._validation.ranking(thin=thin)) is not None:
            train = Ranking(
                np.concatenate([train.values, more.values]),
                np.concatenate([train.true, more.true]),
                np.concatenate([train.sizes, more.sizes]),
            )
        columns = self._world.columns
        booster = fit_ranker(
            columns, train, None, params, k=self._task.k, seed=seed, rounds=max(1, int(found["rounds"]))
        )
        return FittedBoostedLinks(self._plan, columns, booster, self._orders_cold)


class _Top:
    """The best links of examples, as batches of them come."""

    def __init__(self, count: int, k: int) -> None:
        self._targets = np.full((count, k), -1)
        self._scores = np.full((count, k), -np.inf)

    def put(self, batch: Batch, scores: NDArray[np.float64]) -> None:
        """The candidates of some examples with their scores."""
        k = self._scores.shape[1]
        places, at, ranks = best_first(batch.pairs.at, scores, batch.popularity, len(batch.examples), k)
        self._targets[batch.examples[at], ranks] = batch.pairs.targets[places]
        self._scores[batch.examples[at], ranks] = scores[places]

    def links(self, keys: pa.Array) -> Links:
        """All of them, by the keys of the targets."""
        import pyarrow as pa

        flat = self._targets.ravel()
        return Links(keys.take(pa.array(flat, mask=flat < 0)), self._scores)


def _sample(examples: Examples, most: int, rng: np.random.Generator) -> Examples:
    """Some examples of many, in their order."""
    if len(examples) <= most:
        return examples
    return examples.take(np.sort(rng.choice(len(examples), most, replace=False)))


def _spilled(batch: Batch, path: Path) -> Batch:
    """A batch whose features lie in a file."""
    np.save(path, batch.values)
    return replace(batch, values=np.load(path, mmap_mode="r"))


def _thin(examples: int, rng: np.random.Generator) -> Thin:
    """Chooses of the candidates of so many examples all true ones, and as many others as there is room for."""
    room = max(1, MAX_CANDIDATES // max(examples, 1))

    def choose(true: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
        share = room * count / max(len(true), 1)
        return true | (rng.random(len(true)) < share)

    return choose


def _count(examples: Examples) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(pc.list_value_length(examples.labels)).as_py() or 0)
