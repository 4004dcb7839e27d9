"""Sentence-transformers models: loaded from a folder or the hub, with one encoder or two."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import nn

SIDES = ("query", "document")


class UnsupportedModel(ValueError):
    """A model that cannot be trained on texts; the message says what it lacks."""


def load_model(source: str | Path) -> SentenceTransformer:
    """The model in a folder or of the hub, on the CPU, in fp32: safetensors only, and no code of the model's own.

    Raises:
        UnsupportedModel: there is no such model, it needs code of its own, or has no safetensors.
    """
    try:
        model = SentenceTransformer(
            str(source),
            device="cpu",
            trust_remote_code=False,
            local_files_only=Path(source).is_dir(),
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise UnsupportedModel(f"{source!s} cannot be loaded as a sentence-transformers model: {error}") from error
    return model.float()


def has_two_encoders(model: SentenceTransformer) -> bool:
    """Whether queries and documents take different routes through the model."""
    routes = getattr(model[0], "sub_modules", None)
    return routes is not None and set(SIDES) <= set(routes)


def split_encoders(model: SentenceTransformer) -> SentenceTransformer:
    """The model with two encoders, equal at first, behind a Router that `encode_query`/`encode_document` choose by.

    A model that has two keeps them; what they share, each then has for itself.
    """
    from sentence_transformers.base.modules import Router

    if has_two_encoders(model):
        routes: Any = model[0].sub_modules
        if {*map(id, routes["query"].parameters())} & {*map(id, routes["document"].parameters())}:
            routes["query"] = copy.deepcopy(routes["query"])
        return model
    modules: Any = list(model.children())
    router = Router.for_query_document(query_modules=copy.deepcopy(modules), document_modules=modules)
    return SentenceTransformer(
        modules=[router],
        device="cpu",
        prompts={name: prompt for name, prompt in model.prompts.items() if prompt is not None},
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
        truncate_dim=model.truncate_dim,
    )


def add_adapter(model: SentenceTransformer) -> nn.Linear:
    """Give the query encoder of a model with two a linear layer at its end, the identity at first.

    It stands before a final normalisation. One that is there already stays as it is.

    Returns:
        The layer.
    """
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    route: Any = model[0]
    query = route.sub_modules["query"]
    modules = list(query)
    after = modules.pop() if isinstance(modules[-1], Normalize) else None
    if not (isinstance(modules[-1], Dense) and modules[-1].linear.bias is None):
        width = model.get_embedding_dimension() or 0
        adapter = Dense(width, width, bias=False, activation_function=nn.Identity(), init_weight=torch.eye(width))
        route.sub_modules["query"] = nn.Sequential(*modules, adapter, *([after] if after is not None else []))
        modules.append(adapter)
    linear: nn.Linear = modules[-1].linear
    return linear


@contextmanager
def identity_adapter(model: SentenceTransformer) -> Iterator[None]:
    """Within this context the adapter of the query encoder changes nothing."""
    weight = add_adapter(model).weight
    learnt = weight.detach().clone()
    with torch.no_grad():
        weight.copy_(torch.eye(len(weight)))
        try:
            yield
        finally:
            weight.copy_(learnt)


def encoder_modules(model: SentenceTransformer) -> dict[str, nn.Module]:
    """The modules that encode each side, by `query` and `document`; the same object for a model with one encoder."""
    if not has_two_encoders(model):
        return dict.fromkeys(SIDES, model)
    routes: Any = model[0].sub_modules
    return {side: routes[side] for side in SIDES}


def limit_length(model: SentenceTransformer, max_length: int) -> None:
    """Read at most so many tokens of a text, or fewer where the model cannot read as many."""
    for side in dict.fromkeys(encoder_modules(model).values()):
        first: Any = next(iter(side.children()))
        own = getattr(first, "max_seq_length", None)
        if own is not None and own != float("inf"):
            first.max_seq_length = min(own, max_length)


def side_prompt(model: SentenceTransformer, side: str) -> str | None:
    """What `encode_query` or `encode_document` puts before each text."""
    names = ["query"] if side == "query" else ["document", "passage", "corpus"]
    for name in [*names, model.default_prompt_name]:
        if name is not None and model.prompts.get(name) is not None:
            return str(model.prompts[name])
    return None
