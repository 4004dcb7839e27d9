"""The graph learner of link tasks: networks over the rows around an entity and around what it may be linked to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from tuneloop.errors import InvalidInput
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.graph import ALWAYS, Graph, Ints
from tuneloop.relational.learner import DEFAULT_OPTIONS, Fitted, Folds, Learner, Links, Options, Run, Watcher
from tuneloop.relational.link_network import LinkNetwork
from tuneloop.relational.link_rows import find_link_table, rounding
from tuneloop.relational.link_training import LinkLesson, LinkPlace, LinkTrainer, predict_links
from tuneloop.relational.metrics import measure_links
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.schema import LinkTask
from tuneloop.relational.training import Pulse
from tuneloop.relational.world import PACKAGED, Reading, Texts, World, learn_reading, read_world

if TYPE_CHECKING:
    from optuna import Trial

MAX_KNOWN = 100_000  # targets with vectors of their own, those that most rows link to
MAX_MOMENTS = 40  # cut-offs that targets are looked at for; more are rounded


@dataclass(frozen=True)
class GnnLinksFitted(Fitted):
    """A fitted network.

    Attributes:
        reading: how tables are read.
        params: the settings.
        known: the keys of targets that have vectors of their own, as text.
        weights: by name.
        text_model: what reads texts; empty where none are read.
    """

    learner: ClassVar[str] = "gnn"

    reading: Reading
    params: Mapping[str, Any]
    known: tuple[str, ...]
    weights: Mapping[str, Tensor]
    text_model: str = ""

    def predict(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> Links:
        """The k likeliest links of each example, k as in the task's metric."""
        return self._apply(dataset, data, examples, watcher)[0]

    def embed(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> NDArray[np.float32]:
        """What the network knows of an example, (N, C)."""
        return self._apply(dataset, data, examples, watcher)[1]

    def _apply(
        self, dataset: Dataset, data: OpenTables, examples: Examples, watcher: Watcher
    ) -> tuple[Links, NDArray[np.float32]]:
        texts = Texts(self.text_model) if self.text_model else None
        world = read_world(dataset, data, self.reading, None, texts)
        return self.apply(self.place(dataset, data, world), examples, _task(dataset).k, watcher)

    def place(self, dataset: Dataset, data: OpenTables, world: World) -> LinkPlace:
        """The rows as the network sees them."""
        return LinkPlace(world, self.params, self.known, _again(dataset, data))

    def apply(
        self, place: LinkPlace, examples: Examples, k: int, watcher: Watcher
    ) -> tuple[Links, NDArray[np.float32]]:
        """Links and embeddings."""
        network = place.network()
        network.load_state_dict(dict(self.weights))
        links, embeddings, _ = predict_links(network, place, place.world.seeds(examples), k, Pulse(watcher))
        return links, embeddings

    def save(self, folder: Path) -> None:
        """Write `gnn.json` and `gnn.safetensors`."""
        document = {
            "reading": self.reading.document(),
            "params": dict(self.params),
            "known": list(self.known),
            "text_model": self.text_model,
        }
        (folder / "gnn.json").write_text(json.dumps(document), encoding="utf-8")
        save_file(dict(self.weights), folder / "gnn.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        document = json.loads((folder / "gnn.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "gnn.safetensors")
        reading = Reading.parse(document["reading"])
        return cls(reading, document["params"], tuple(document["known"]), weights, document["text_model"])


class GnnLinks(Learner):
    """Two towers of a temporal GraphSAGE, and the ways from an entity to what it met."""

    name: ClassVar[str] = "gnn"
    fitted: ClassVar[type[Fitted]] = GnnLinksFitted

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
        self._dataset, self._data, self._folds, self._task = dataset, data, folds, _task(dataset)
        self._text_model = options.text_model

    def prepare(self, watcher: Watcher) -> None:
        """Read the tables.

        Raises:
            InvalidInput: there is nothing to learn from.
        """
        watcher.progress("reading the tables as a graph")
        texts = Texts(self._text_model or PACKAGED) if self._text_model is not None else None
        folds = self._folds
        self._reading, self._world = learn_reading(self._dataset, self._data, folds.train, folds.labelled, texts)
        self._model = "" if texts is None else texts.model
        self._known = _most_linked(self._world.graph, self._reading.now)
        self._again = _again(self._dataset, self._data)
        if not len(LinkLesson.of(self._place(self.defaults()), folds.train).rows):
            key = self._task.target_entity.link_to
            raise InvalidInput(
                f"no training example is linked to anything: are the examples' targets keys of {key}?",
                field="dataset.task",
            )

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Settings to try."""
        return {
            **self.defaults(),
            "variant": trial.suggest_categorical("variant", ["both", "two_tower", "id_aware"]),
            "channels": trial.suggest_categorical("channels", [32, 64, 128]),
            "hops": trial.suggest_categorical("hops", [2, 3]),
            "fan_out": trial.suggest_categorical("fan_out", [24, 48, 96]),
            "dropout": trial.suggest_float("dropout", 0.1, 0.5),
            "anonymity": trial.suggest_float("anonymity", 0.2, 0.8),
            "learning_rate": trial.suggest_float("learning_rate", 3e-3, 2e-2, log=True),
            "epochs": trial.suggest_int("epochs", 5, 15, log=True),
        }

    def defaults(self) -> dict[str, Any]:
        """Settings that work on most tables."""
        return {
            "variant": "both",
            "channels": 64,
            "hops": 2,
            "fan_out": 48,
            "strategy": "last",
            "dropout": 0.3,
            "anonymity": 0.5,
            "learning_rate": 1e-2,
            "weight_decay": 1e-2,
            "batch_size": 128,
            "epochs": 10,  # the learning rate falls over them
            "patience": 2,
            "step": rounding(self._folds.train.cuts, MAX_MOMENTS),
        }

    def fit(self, params: Mapping[str, Any], *, seed: int, watcher: Watcher) -> Run:
        """Fit on the training examples, stopping early by the validation examples."""
        params = {**self.defaults(), **params}
        place = self._place(params)
        train, held = (LinkLesson.of(place, each) for each in (self._folds.train, self._folds.validation))
        trainer = self._trainer(place, seed, watcher)
        network, epochs = trainer.run(train, held, params["epochs"])
        fitted = self._fitted(params, network)
        links, _ = fitted.apply(place, self._folds.validation, self._task.k, watcher)
        assert self._folds.validation.labels is not None
        value = measure_links(self._task.evaluation_metric, self._folds.validation.labels, links)
        return Run(fitted, value, links, {"epochs": epochs})

    def refit(self, params: Mapping[str, Any], found: Mapping[str, Any], *, seed: int, watcher: Watcher) -> Fitted:
        """Fit on training and validation examples together, as long as `fit` found best."""
        params = {**self.defaults(), **params}
        place = self._place(params)
        network, _ = self._trainer(place, seed, watcher).run(
            LinkLesson.of(place, self._folds.whole), None, found["epochs"]
        )
        return self._fitted(params, network)

    def _place(self, params: Mapping[str, Any]) -> LinkPlace:
        return LinkPlace(self._world, params, self._known, self._again)

    def _trainer(self, place: LinkPlace, seed: int, watcher: Watcher) -> LinkTrainer:
        metric, k = self._task.evaluation_metric, self._task.k
        return LinkTrainer(place, metric, k, _ages(self._folds), seed=seed, watcher=watcher)

    def _fitted(self, params: Mapping[str, Any], network: LinkNetwork) -> GnnLinksFitted:
        weights = {name: each.detach().clone() for name, each in network.state_dict().items()}
        return GnnLinksFitted(self._reading, params, self._known, weights, self._model)


def _task(dataset: Dataset) -> LinkTask:
    if not isinstance(dataset.task, LinkTask):
        raise InvalidInput("this learner predicts links: give the dataset a link task")
    return dataset.task


def _again(dataset: Dataset, data: OpenTables) -> tuple[int, int] | None:
    """Which foreign keys tell what entities were linked to before, where only that may be predicted."""
    if _task(dataset).task_type != "repeated_link_prediction":
        return None
    found = find_link_table(dataset, data)
    numbers = {
        (table.name, key.column): number
        for number, (table, key) in enumerate((table, key) for table in dataset.tables for key in table.foreign_keys)
    }
    return numbers[found.table.name, found.source], numbers[found.table.name, found.target]


def _most_linked(graph: Graph, until: int) -> tuple[str, ...]:
    """The keys of targets that were there at a time, as text; of too many those that most rows linked to."""
    assert graph.target_keys is not None
    there = int(np.searchsorted(graph.tables[graph.target].times, until, side="right"))
    counts = np.zeros(len(graph.target_keys), np.int64)
    for link in graph.links:
        if link.parent == graph.target:
            parents = link.parents[graph.tables[link.child].times <= until]
            counts += np.bincount(parents[parents >= 0], minlength=len(counts))
    chosen = np.sort(np.argsort(-counts[:there], kind="stable")[:MAX_KNOWN])
    return tuple(pc.cast(graph.target_keys.take(pa.array(chosen)), pa.string()).to_pylist())


def _ages(folds: Folds) -> Ints:
    """How old what is known is, microseconds, as with the validation examples."""
    times = folds.validation.times.astype("datetime64[us]").astype(np.int64)
    cuts = folds.validation.cuts.astype("datetime64[us]").astype(np.int64)
    dated = (times != ALWAYS) & (cuts != ALWAYS)
    return (times - cuts)[dated] if dated.any() else np.zeros(1, np.int64)
