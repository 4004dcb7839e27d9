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
from tuneloop.relational.features import Features
from tuneloop.relational.learner import DEFAULT_OPTIONS, Fitted, Folds, Learner, Options, Run, Silent, Watcher
from tuneloop.relational.metrics import measure
from tuneloop.relational.network import Network
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.prepare import compute_features, plan_features
from tuneloop.relational.schema import NodeTask
from tuneloop.relational.targets import Target
from tuneloop.relational.training import Lesson, Pulse, Trainer, apply, batches, make_network, make_sampler
from tuneloop.relational.wide import Wide
from tuneloop.relational.world import PACKAGED, Reading, Seeds, Texts, World, learn_reading, read_world

if TYPE_CHECKING:
    from optuna import Trial

# Of fewer examples several networks are fitted, in a search and at its end: what one makes of them is partly chance.
FEW, FEW_FINALLY = 8_000, 30_000
MAX_NETWORKS = 4
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
        wide: the features that are read beside the rows, where any are.
    """

    learner: ClassVar[str] = "gnn"

    reading: Reading
    target: Target
    params: Mapping[str, Any]
    weights: tuple[Mapping[str, Tensor], ...]
    text_model: str = ""
    wide: Wide | None = None

    def predict(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> NDArray[np.float64]:
        """Probabilities or numbers, (N,) or (N, C)."""
        return self._read_and_apply(dataset, data, examples, labelled, watcher)[0]

    def embed(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> NDArray[np.float32]:
        """What each network knows of an example, side by side, (N, D)."""
        return self._read_and_apply(dataset, data, examples, labelled, watcher)[1]

    def _read_and_apply(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        texts = Texts(self.text_model) if self.text_model else None
        world = read_world(dataset, data, self.reading, labelled, texts)
        features = None
        if self.wide is not None:
            watcher.progress("computing features")
            features = self.wide.scores(compute_features(self.wide.plan, dataset, data, examples, labelled))
        return self.apply(world, world.seeds(examples, features), watcher)

    def apply(self, world: World, seeds: Seeds, watcher: Watcher) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Predictions and embeddings."""
        pulse = Pulse(watcher)
        networks = [self._network(world, weights) for weights in self.weights]
        sampler = make_sampler(world, self.params)
        predictions: list[list[NDArray[np.float64]]] = []
        embeddings: list[NDArray[np.float32]] = []
        for batch in batches(sampler, seeds, pulse):
            found = [apply(network, world, [batch], pulse) for network in networks]
            predictions.append([self.target.predictions(outputs) for outputs, _ in found])
            embeddings.append(torch.cat([embedded for _, embedded in found], 1).numpy())
        together = [np.concatenate(each) for each in zip(*predictions, strict=True)]
        return np.mean(together, axis=0), np.concatenate(embeddings)

    def _network(self, world: World, weights: Mapping[str, Tensor]) -> Network:
        features = 0 if self.wide is None else len(self.wide.names)
        network = make_network(world, self.target.outputs, self.params, features)
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
            "wide": None if self.wide is None else self.wide.document(),
        }
        (folder / "gnn.json").write_text(json.dumps(document), encoding="utf-8")
        tensors = {f"{n}.{name}": each for n, found in enumerate(self.weights) for name, each in found.items()}
        if self.wide is not None:
            tensors |= {f"wide.{name}": each for name, each in self.wide.tensors().items()}
        save_file(tensors, folder / "gnn.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        document = json.loads((folder / "gnn.json").read_text(encoding="utf-8"))
        tensors: dict[str, dict[str, Tensor]] = {}
        for name, each in load_file(folder / "gnn.safetensors").items():
            owner, _, inner = name.partition(".")
            tensors.setdefault(owner, {})[inner] = each
        wide = document.get("wide")  # older models have none
        return cls(
            Reading.parse(document["reading"]),
            Target.parse(document["target"]),
            document["params"],
            tuple(tensors[str(number)] for number in range(document["networks"])),
            document["text_model"],
            None if wide is None else Wide.parse(wide, tensors["wide"]),
        )


class GnnNodes(Learner):
    """Networks over the rows around an entity, a temporal GraphSAGE, which read generated features beside them."""

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
        self._hops = options.hops
        self._worlds: dict[bool, tuple[Reading, World, str]] = {}
        self._computed: tuple[Wide, Mapping[str, Tensor]] | None = None

    def prepare(self, watcher: Watcher) -> None:
        """Read the tables, and compute the features of all training and validation examples."""
        watcher.progress("reading the tables as a graph")
        self._world(self.defaults()["text"])
        watcher.check()
        watcher.progress("computing features")
        self._features()

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
            "features": True,
            "dropout": 0.4,
            "anonymity": 0.5,
            "learning_rate": 3e-3,
            "weight_decay": 1e-2,
            "half_life": 0,
            "batch_size": 256,
            "epochs": 5,  # the learning rate falls over them
            "patience": 2,
            "networks": self._networks(FEW),  # in a search
            "final_networks": self._networks(FEW_FINALLY),
        }

    def fit(self, params: Mapping[str, Any], *, seed: int, watcher: Watcher) -> Run:
        """Fit on the training examples, stopping early by the validation examples."""
        params = {**self.defaults(), **params}
        target = Target.of(self._task, self._folds.train)
        train, held = (self._lesson(split, target, params) for split in ("train", "validation"))
        fitted, epochs = self._train(target, params, (train, held), params["epochs"], seed=seed, watcher=watcher)
        _, world, _ = self._world(params["text"])
        predictions, _ = fitted.apply(world, held.seeds, watcher)
        value = measure(self._task.evaluation_metric, held.numbers, predictions)
        return Run(fitted, value, predictions, {"epochs": round(float(np.mean(epochs)))})

    def refit(self, params: Mapping[str, Any], found: Mapping[str, Any], *, seed: int, watcher: Watcher) -> GnnFitted:
        """Fit on training and validation examples together, as long as `fit` found best, with all the networks."""
        params = {**self.defaults(), **params}
        params["networks"] = params["final_networks"]
        target = Target.of(self._task, self._folds.whole)
        lesson = self._lesson("whole", target, params)
        fitted, _ = self._train(target, params, (lesson, None), found["epochs"], seed=seed, watcher=watcher)
        return fitted

    def _networks(self, few: int) -> int:
        """How many networks to fit: the fewer examples, the more."""
        return int(np.clip(few // max(len(self._folds.train), 1), 1, MAX_NETWORKS))

    def _world(self, text: bool) -> tuple[Reading, World, str]:
        """The tables, with or without their texts, and what reads texts."""
        if text not in self._worlds:
            texts = Texts(self._text_model or PACKAGED) if text else None
            folds = self._folds
            reading, world = learn_reading(self._dataset, self._data, folds.train, folds.labelled, texts)
            self._worlds[text] = reading, world, "" if texts is None else texts.model
        return self._worlds[text]

    def _features(self) -> tuple[Wide, Mapping[str, Tensor]]:
        """The generated features, and those of each split."""
        if self._computed is None:
            folds, dataset, data = self._folds, self._dataset, self._data
            plan = plan_features(dataset, data, folds.train, hops=self._hops)
            found = compute_features(plan, dataset, data, folds.whole + folds.validation, folds.labelled)
            train, whole = len(folds.train), len(folds.whole)
            wide = Wide.of(plan, Features(found.values[:train], found.columns))
            scores = wide.scores(found)
            self._computed = wide, {"train": scores[:train], "whole": scores[:whole], "validation": scores[whole:]}
        return self._computed

    def _lesson(self, split: str, target: Target, params: Mapping[str, Any]) -> Lesson:
        examples: Examples = getattr(self._folds, split)
        _, world, _ = self._world(params["text"])
        weights = np.ones(len(examples), np.float32)
        if params["half_life"] and not np.isnat(examples.times).any():  # years after which an example counts half
            times = examples.times.astype("datetime64[us]").astype(np.int64)
            weights = (0.5 ** ((times.max() - times) / _YEAR / params["half_life"])).astype(np.float32)
        features = self._features()[1][split] if params["features"] else None
        return Lesson(world.seeds(examples, features), target.numbers(self._task, examples), weights)

    def _train(
        self,
        target: Target,
        params: Mapping[str, Any],
        lessons: tuple[Lesson, Lesson | None],
        epochs: int,
        *,
        seed: int,
        watcher: Watcher,
    ) -> tuple[GnnFitted, list[int]]:
        """Networks that differ in their seed, and after how many epochs each was best."""
        reading, world, model = self._world(params["text"])
        wide = self._features()[0] if params["features"] else None
        weights, best = [], []
        for number in range(params["networks"]):
            trainer = Trainer(
                world,
                target,
                self._task.evaluation_metric,
                self._task.maximise,
                params,
                0 if wide is None else len(wide.names),
                seed=seed * 100 + number,
                watcher=_Following(watcher) if number else watcher,
            )
            network, epoch = trainer.run(*lessons, epochs)
            weights.append({name: each.detach().clone() for name, each in network.state_dict().items()})
            best.append(epoch)
        return GnnFitted(reading, target, dict(params), tuple(weights), model, wide), best


class _Following(Silent):
    """Watches the networks after the first: their epochs are not told again."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def check(self) -> None:
        """Ask the one that is followed."""
        self._watcher.check()
