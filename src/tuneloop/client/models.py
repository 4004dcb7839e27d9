"""The client's calls about models: register, look up, point aliases, embed, rank."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuneloop.client.errors import InvalidRequestError
from tuneloop.client.transport import Transport, segment
from tuneloop.client.types import Alias, Embeddings, Item, Model, ModelRef, Ranking, Registered, Task, TextKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PATH = "/api/v1/models"
_EMBED_INPUTS = 2_048


class ModelCalls:
    """Registered models. Mixed into `Client`.

    Where a call takes a `model`, that is `shop` (its latest version), `shop/3` or `shop@champion`.
    """

    _transport: Transport

    def register_model(
        self, name: str, *, task_id: str | None = None, run_id: str | None = None, description: str | None = None
    ) -> Registered:
        """Register the best model of a task, or the model of a run, as a new version of `name`.

        Args:
            name: the model's name; it is made when there is none.
            task_id: the task whose best model it is; or
            run_id: the MLflow run whose model it is.
            description: of the version.

        Raises:
            NotFoundError: no such task or run.
            ConflictError: the task has no best model.

        Example:
            >>> client.register_model("shop", task_id=task.id)
            Registered(name='shop', version='1')
        """
        if (task_id is None) == (run_id is None):
            raise InvalidRequestError("say which model to register: task_id or run_id, one of them")
        body = {"name": name, "task_id": task_id, "run_id": run_id, "description": description}
        answer = self._transport.call(
            "POST",
            _PATH,
            body={field: value for field, value in body.items() if value is not None},
            headers={"Idempotency-Key": uuid.uuid4().hex},
        )
        return Registered.parse(answer)

    def models(self) -> list[Model]:
        """All registered models with their versions."""
        answer = self._transport.call("GET", _PATH)
        return list(Model.parse_all(answer["models"]))

    def get_model(self, name: str) -> Model:
        """A registered model with its versions.

        Raises:
            NotFoundError: no such model.
        """
        return Model.parse(self._transport.call("GET", f"{_PATH}/{segment(name)}"))

    def set_alias(self, name: str, alias: str, version: str | int) -> Alias:
        """Point an alias, such as `champion`, at a version; pointing it back is the rollback.

        `version` is a number, or `latest`, which is looked up once.

        Raises:
            NotFoundError: no such model or version.
        """
        path = f"{_PATH}/{segment(name)}/aliases/{segment(alias)}"
        return Alias.parse(self._transport.call("PUT", path, body={"version": str(version)}))

    def embed(self, model: str, inputs: Sequence[str], *, kind: TextKind = "query") -> "NDArray[np.float32]":
        """Embeddings of texts, of unit length: float32 (n, dimensions).

        Args:
            model: `shop`, `shop/3` or `shop@champion`.
            inputs: any number of texts; they go in calls of 2,048.
            kind: whether the texts are queries or items, which a model may treat differently.

        Raises:
            NotFoundError: no such model or version.
        """
        return self.embed_tagged(model, inputs, kind=kind).vectors

    def embed_tagged(self, model: str, inputs: Sequence[str], *, kind: TextKind = "query") -> Embeddings:
        """Like `embed`, with the version that was used: all texts are embedded by one, also when the alias moves."""
        import numpy as np

        if isinstance(inputs, str):
            raise InvalidRequestError("inputs is a list of texts, not one text")
        if not len(inputs):
            raise InvalidRequestError("inputs holds no text")
        path, used = _version_path(model), model
        parts = []
        for start in range(0, len(inputs), _EMBED_INPUTS):
            body = {"inputs": list(inputs[start : start + _EMBED_INPUTS]), "kind": kind}
            answer = self._transport.call("POST", f"{path}/embed", body=body)
            parts.append(np.asarray(answer["embeddings"], dtype=np.float32))
            used = answer["model"]
            path = _version_path(used)
        return Embeddings(np.concatenate(parts), used)

    def embed_items(self, model: str, *, output: str | None = None, idempotency_key: str | None = None) -> Task:
        """Ask for the embeddings of all items; answers at once, the work is done by a worker.

        The task writes a Parquet file with the columns `object_id`, `embedding` (unit length) and `text_hash`. Items
        that an earlier task of this version encoded, and whose text did not change, are not encoded again.

        Args:
            model: `shop`, `shop/3` or `shop@champion`; an alias is looked up once.
            output: a name for the file in the service's folder, such as `shop.parquet`; one of this name is replaced.
            idempotency_key: the same key with the same request gives the same task. By default a new one for each
                call.

        Raises:
            NotFoundError: no such model or version.
            ConflictError: no Tuneloop run stored this model, or the key belongs to another request.

        Example:
            >>> task = client.wait(client.embed_items("shop@champion").id)
            >>> client.download_output(task.id, "shop.parquet")
        """
        body = {"idempotency_key": idempotency_key or uuid.uuid4().hex}
        if output is not None:
            body["output"] = output
        return Task.parse(self._transport.call("POST", f"{_version_path(model)}/embed-items", body=body))

    def rank(
        self,
        model: str,
        query: str,
        *,
        object_ids: Sequence[str] | None = None,
        items: Iterable[Item | Mapping[str, Any]] | None = None,
        top_k: int | None = None,
    ) -> Ranking:
        """Order items by their score for a query, best first.

        Args:
            model: `shop`, `shop/3` or `shop@champion`.
            query: what the user typed.
            object_ids: items of the catalogue; or
            items: items with their `text`, which need not be stored.
            top_k: keep only so many.

        Raises:
            NotFoundError: no such model or version.
            InvalidInputError: an object id is not in the catalogue.
        """
        if (object_ids is None) == (items is None):
            raise InvalidRequestError("say what to rank: object_ids or items, one of them")
        body: dict[str, Any] = {"query": query}
        if items is not None:
            body["items"] = list(items)
        else:
            body["object_ids"] = list(object_ids or ())
        if top_k is not None:
            body["top_k"] = top_k
        return Ranking.parse(self._transport.call("POST", f"{_version_path(model)}/rank", body=body))


def _version_path(model: str) -> str:
    ref = ModelRef.parse(model)
    return f"{_PATH}/{segment(ref.name)}/versions/{segment(ref.version)}"
