"""Boosted trees that put an example's candidates in order (LightGBM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.boosted import Report, _lightgbm
from tuneloop.relational.feature_queries import Feature

if TYPE_CHECKING:
    import lightgbm as lgb

MAX_ROUNDS = 600
PATIENCE = 40  # rounds without a better validation metric
FEW = 5_000_000  # values of which threads wait for each other longer than they work
OBJECTIVES = ("binary", "lambdarank", "rank_xendcg")


@dataclass(frozen=True)
class Ranking:
    """Candidates to learn from, an example's after another.

    Attributes:
        values: (P, F) features.
        true: (P,) whether the two were linked.
        sizes: (N,) how many candidates each example has.
    """

    values: NDArray[np.float32]
    true: NDArray[np.bool_]
    sizes: NDArray[np.int64]


def default_ranking() -> dict[str, Any]:
    """Settings that work on most tables."""
    return {
        "objective": "binary",
        "num_leaves": 31,
        "learning_rate": 0.08,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.4,
        "bagging_fraction": 0.8,
        "lambda_l2": 5.0,
    }


def fit_ranker(
    columns: Sequence[Feature],
    train: Ranking,
    validation: Ranking | None,
    params: Mapping[str, Any],
    *,
    k: int,
    seed: int,
    rounds: int | None = None,
    report: Report = lambda round, values: None,
) -> lgb.Booster:
    """Fit trees; with validation candidates they stop when MAP at k no longer becomes better.

    Args:
        columns: what the features are.
        train: what is learnt from.
        validation: stops early; without it `rounds` are fitted.
        params: as in `default_ranking`.
        k: how many of an example's links count.
        seed: of bagging and of the choice of features.
        rounds: how many, at most.
        report: called after each round with the validation metric.
    """
    library = _lightgbm()
    settings = {name: params[name] for name in default_ranking()} | {
        "metric": "map",
        "eval_at": [k],
        "lambdarank_truncation_level": max(2 * k, 20),
        "bagging_freq": 1,
        "bagging_by_query": params["objective"] != "binary",
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
        "cat_smooth": 20,
        "num_threads": 1 if train.values.size < FEW else 0,
    }
    data = library.Dataset(
        train.values,
        train.true.astype(np.float32),
        group=train.sizes,
        feature_name=[f"f{number}" for number in range(len(columns))],
        categorical_feature=[number for number, each in enumerate(columns) if each.codes],
        params={"verbosity": -1},
        free_raw_data=True,
    )
    watched: dict[str, Any] = {}
    if validation is not None:
        valid = data.create_valid(validation.values, validation.true.astype(np.float32), group=validation.sizes)
        callbacks = [_reporter(report), library.early_stopping(PATIENCE, verbose=False)]
        watched = {"valid_sets": [valid], "valid_names": ["val"], "callbacks": callbacks}
    booster: lgb.Booster = library.train(settings, data, rounds or MAX_ROUNDS, **watched)
    return booster


def _reporter(report: Report) -> Any:
    def tell(env: Any) -> None:
        report(env.iteration + 1, {"val_map": env.evaluation_result_list[0][2]})

    return tell


def best_first(
    at: NDArray[np.int64], scores: NDArray[np.float64], popularity: NDArray[Any], count: int, k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The best k candidates of each example: their places among the candidates, the example and the rank of each.

    Args:
        at: (P,) the example of each candidate, rising.
        scores: (P,).
        popularity: (P,) decides between equal scores.
        count: how many examples there are.
        k: of each example.
    """
    order = np.lexsort((-popularity, -scores, at))
    starts = np.searchsorted(at, np.arange(count))
    ranks = np.arange(len(at)) - starts[at]  # `at` rises, so the order keeps each example's stretch
    some = ranks < k
    return order[some], at[some], ranks[some]
