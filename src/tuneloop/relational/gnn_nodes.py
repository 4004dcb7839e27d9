"""The graph learner of node tasks: a network over the rows around an entity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from tuneloop.errors import InvalidInput
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.graph import ALWAYS, Ints
from tuneloop.relational.learner import DEFAULT_OPTIONS, Fitted, Folds, Learner, Options, Run, Silent, Watcher
from tuneloop.relational.metrics import measure
from tuneloop.relational.network import Network
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.schema import NodeTask
from tuneloop.relational.targets import Target
from tuneloop.relational.training import Lesson, Pulse, Trainer, apply, batches, make_network, make_sampler
from tuneloop.relational.world import PACKAGED, Reading, Texts, World, learn_reading, read_world

if TYPE_CHECKING:
    from optuna import Trial

FEW = 8000  # of fewer examples several networks are fitted: what one makes of them is partly chance
_YEAR = 365.25 * 86_400_000_000


@dataclass(frozen=True)
class GnnFitted(Fitted):
    """Fitted networks, whose predictions are averaged.

    Attributes:
        reading: how tables are read.
        target: what is predicted.
        params: the settings.
        weights: of each network, by name.
        text_model: what reads texts; empty where none are read.
    """

    learner: ClassVar[str] = "gnn"

    reading: Reading
    target: Target
    params: Mapping[str, Any]
    weights: tuple[Mapping[str, Tensor], ...]
    text_model: str = ""

    def predict(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> NDArray[np.float64]:
        """Probabilities or numbers, (N,) or (N, C)."""
        return self.apply(self.read(dataset, data, labelled), examples, watcher)[0]

    def embed(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> NDArray[np.float32]:
        """What each network knows of an example, side by side, (N, D)."""
        return self.apply(self.read(dataset, data, labelled), examples, watcher)[1]

    def read(self, dataset: Dataset, data: OpenTables, labelled: Examples | None) -> World:
        """The tables as the networks see them."""
        texts = Texts(self.text_model) if self.text_model else None
        return read_world(dataset, data, self.reading, labelled, texts)

    def apply(
        self, world: World, examples: Examples, watcher: Watcher
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Predictions and embeddings."""
        pulse = Pulse(watcher)
        networks = [self._network(world, weights) for weights in self.weights]
        sampler = make_sampler(world, self.params)
        predictions: list[list[NDArray[np.float64]]] = []
        embeddings: list[NDArray[np.float32]] = []
        for batch in batches(sampler, world.seeds(examples), pulse):
            found = [apply(network, world, [batch], pulse) for network in networks]
            predictions.append([self.target.predictions(outputs) for outputs, _ in found])
            embeddings.append(torch.cat([embedded for _, embedded in found], 1).numpy())
        together = [np.concatenate(each) for each in zip(*predictions, strict=True)]
        return np.mean(together, axis=0), np.concatenate(embeddings)

    def _network(self, world: World, weights: Mapping[str, Tensor]) -> Network:
        network = make_network(world, self.target.outputs, self.params)
        network.load_state_dict(dict(weights))
        return network

    def save(self, folder: Path) -> None:
        """Write `gnn.json` and `gnn.safetensors`."""
        document = {
            "reading": self.reading.document(),
            "target": self.target.document(),
            "params": dict(self.params),
            "networks": len(self.weights),
            "text_model": self.text_model,
        }
        (folder / "gnn.json").write_text(json.dumps(document), encoding="utf-8")
        tensors = {f"{n}.{name}": each for n, found in enumerate(self.weights) for name, each in found.items()}
        save_file(tensors, folder / "gnn.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        document = json.loads((folder / "gnn.json").read_text(encoding="utf-8"))
        weights: list[dict[str, Tensor]] = [{} for _ in range(document["networks"])]
        for name, each in load_file(folder / "gnn.safetensors").items():
            number, _, inner = name.partition(".")
            weights[int(number)][inner] = each
        return cls(
            Reading.parse(document["reading"]),
            Target.parse(document["target"]),
            document["params"],
            tuple(weights),
            document["text_model"],
        )


class GnnNodes(Learner):
    """Networks over the rows around an entity: a temporal GraphSAGE."""

    name: ClassVar[str] = "gnn"
    fitted: ClassVar[type[Fitted]] = GnnFitted

    @classmethod
    def can(cls, dataset: Dataset) -> bool:
        """Whether the task is about nodes."""
        return isinstance(dataset.task, NodeTask)

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
        if not isinstance(dataset.task, NodeTask):
            raise InvalidInput("this learner predicts labels of entities: give the dataset a node task")
        self._dataset, self._task, self._data, self._folds = dataset, dataset.task, data, folds
        self._seed = seed
        self._text_model = options.text_model
        self._worlds: dict[bool, tuple[Reading, World, str]] = {}

    def prepare(self, watcher: Watcher) -> None:
        """Read the tables."""
        watcher.progress("reading the tables as a graph")
        self._world(self.defaults()["text"])

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Settings to try."""
        return {
            **self.defaults(),
            "channels": trial.suggest_categorical("channels", [32, 64]),
            "hops": trial.suggest_categorical("hops", [2, 3]),
            "fan_out": trial.suggest_categorical("fan_out", [8, 12, 24]),
            "strategy": trial.suggest_categorical("strategy", ["last", "uniform"]),
            "dropout": trial.suggest_float("dropout", 0.2, 0.6),
            "anonymity": trial.suggest_float("anonymity", 0.0, 1.0),
            "learning_rate": trial.suggest_float("learning_rate", 1e-3, 6e-3, log=True),
            "epochs": trial.suggest_int("epochs", 3, 12, log=True),
            "half_life": trial.suggest_categorical("half_life", [0, 10, 20, 40]),
        }

    def defaults(self) -> dict[str, Any]:
        """Settings that work on most tables."""
        return {
            "channels": 64,
            "hops": 3,
            "fan_out": 12,
            "strategy": "last",
            "text": self._text_model is not None,
            "dropout": 0.4,
            "anonymity": 0.5,
            "learning_rate": 3e-3,
            "weight_decay": 1e-2,
            "half_life": 0,
            "batch_size": 256,
            "epochs": 5,  # the learning rate falls over them
            "patience": 2,
            "networks": int(np.clip(FEW // max(len(self._folds.train), 1), 1, 4)),
        }

    def fit(self, params: Mapping[str, Any], *, seed: int, watcher: Watcher) -> Run:
        """Fit on the training examples, stopping early by the validation examples."""
        params = {**self.defaults(), **params}
        reading, world, model = self._world(params["text"])
        target = Target.of(self._task, self._folds.train)
        train, held = (
            self._lesson(world, target, each, params) for each in (self._folds.train, self._folds.validation)
        )
        found = self._train(world, target, params, (train, held), params["epochs"], seed=seed, watcher=watcher)
        fitted = _fitted(reading, target, params, [network for network, _ in found], model)
        predictions, _ = fitted.apply(world, self._folds.validation, watcher)
        value = measure(self._task.evaluation_metric, held.numbers, predictions)
        return Run(fitted, value, predictions, {"epochs": round(float(np.mean([epochs for _, epochs in found])))})

    def refit(self, params: Mapping[str, Any], found: Mapping[str, Any], *, seed: int, watcher: Watcher) -> GnnFitted:
        """Fit on training and validation examples together, as long as `fit` found best."""
        params = {**self.defaults(), **params}
        reading, world, model = self._world(params["text"])
        whole = self._folds.whole
        target = Target.of(self._task, whole)
        lesson = self._lesson(world, target, whole, params)
        networks = self._train(world, target, params, (lesson, None), found["epochs"], seed=seed, watcher=watcher)
        return _fitted(reading, target, params, [network for network, _ in networks], model)

    def _world(self, text: bool) -> tuple[Reading, World, str]:
        """The tables, with or without their texts, and what reads texts."""
        if text not in self._worlds:
            texts = Texts(self._text_model or PACKAGED) if text else None
            folds = self._folds
            reading, world = learn_reading(self._dataset, self._data, folds.train, folds.labelled, texts)
            self._worlds[text] = reading, world, "" if texts is None else texts.model
        return self._worlds[text]

    def _lesson(self, world: World, target: Target, examples: Examples, params: Mapping[str, Any]) -> Lesson:
        weights = np.ones(len(examples), np.float32)
        if params["half_life"] and not np.isnat(examples.times).any():  # years after which an example counts half
            times = examples.times.astype("datetime64[us]").astype(np.int64)
            weights = (0.5 ** ((times.max() - times) / _YEAR / params["half_life"])).astype(np.float32)
        return Lesson(world.seeds(examples), target.numbers(self._task, examples), weights)

    def _train(
        self,
        world: World,
        target: Target,
        params: Mapping[str, Any],
        lessons: tuple[Lesson, Lesson | None],
        epochs: int,
        *,
        seed: int,
        watcher: Watcher,
    ) -> list[tuple[Network, int]]:
        """Networks that differ in their seed, and after how many epochs each was best."""
        task, found = self._task, []
        for number in range(params["networks"]):
            trainer = Trainer(
                world,
                target,
                task.evaluation_metric,
                task.maximise,
                params,
                ages_of(self._folds),
                seed=seed * 100 + number,
                watcher=_Following(watcher) if number else watcher,
            )
            found.append(trainer.run(*lessons, epochs))
        return found


class _Following(Silent):
    """Watches the networks after the first: their epochs are not told again."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def check(self) -> None:
        """Ask the one that is followed."""
        self._watcher.check()


def ages_of(folds: Folds) -> Ints:
    """How old what is known is, microseconds, as with the validation examples."""
    times = folds.validation.times.astype("datetime64[us]").astype(np.int64)
    cuts = folds.validation.cuts.astype("datetime64[us]").astype(np.int64)
    dated = (times != ALWAYS) & (cuts != ALWAYS)
    return (times - cuts)[dated] if dated.any() else np.zeros(1, np.int64)


def _fitted(
    reading: Reading, target: Target, params: Mapping[str, Any], networks: list[Network], model: str
) -> GnnFitted:
    weights = tuple({name: each.detach().clone() for name, each in net.state_dict().items()} for net in networks)
    return GnnFitted(reading, target, dict(params), weights, model)
