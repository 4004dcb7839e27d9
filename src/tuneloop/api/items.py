"""What can be found."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query
from starlette.convertors import Convertor, register_url_convertor

from tuneloop.api.backend import BackendDep
from tuneloop.api.bodies import NdjsonRoute
from tuneloop.api.responses import failures
from tuneloop.api.schemas.common import MAX_LIMIT, Deleted
from tuneloop.api.schemas.items import ItemAnswer, ItemPage, Upserted
from tuneloop.catalog.schemas import ItemIn
from tuneloop.catalog.store import Item
from tuneloop.ids import ClientId


class OpaqueConvertor(Convertor[str]):
    """The rest of a path, whatever is in it: slashes, dots, line ends."""

    regex = r"(?s:.+)"

    def convert(self, value: str) -> str:
        """The id as it was decoded from the path."""
        return value

    def to_string(self, value: str) -> str:
        """The id as it stands in a path, before it is encoded."""
        return value


register_url_convertor("opaque", OpaqueConvertor())
router = APIRouter(prefix="/api/v1/items", route_class=NdjsonRoute)

_ITEMS = [{"object_id": "dress/17", "text": "Red summer dress, linen"}, {"object_id": "skirt/4", "text": "Plain skirt"}]
_NDJSON = {
    "schema": {"type": "string", "format": "binary"},
    "example": '{"object_id": "dress/17", "text": "Red summer dress, linen"}\n',
}


@router.post(
    "",
    tags=["Items"],
    summary="Write items",
    responses=failures(413),
    openapi_extra={"requestBody": {"content": {"application/x-ndjson": _NDJSON}}},
)
def upsert_items(items: Annotated[list[ItemIn], Body(examples=[_ITEMS])], backend: BackendDep) -> Upserted:
    """Create or replace items, from a JSON list or from NDJSON: all of them or none."""
    upserted = backend.catalog.upsert([item.to_item() for item in items])
    backend.metrics.items.inc(upserted)
    return Upserted(upserted=upserted)


@router.get(
    "",
    tags=["Items"],
    summary="All items, by page",
    response_model=ItemPage,
    response_model_exclude_unset=True,
    responses=failures(),
)
def list_items(
    backend: BackendDep,
    after: Annotated[str | None, Query(description="The `next` of the page before.", max_length=3000)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
) -> dict[str, Any]:
    """A page of the items, ordered by id."""
    items, following = backend.catalog.page(after=after, limit=limit)
    return {"items": [_item(item) for item in items], "next": following}


@router.get(
    "/{object_id:opaque}",
    tags=["Items"],
    summary="One item",
    response_model=ItemAnswer,
    response_model_exclude_unset=True,
    responses=failures(404),
)
def get_item(object_id: Annotated[ClientId, Path()], backend: BackendDep) -> dict[str, Any]:
    """One item. The id may hold slashes, percent-encoded or not."""
    return _item(backend.catalog.get(object_id))


@router.delete("/{object_id:opaque}", tags=["Items"], summary="Delete an item", responses=failures(404))
def delete_item(object_id: Annotated[ClientId, Path()], backend: BackendDep) -> Deleted:
    """Delete an item; sessions that showed it stay."""
    backend.catalog.delete(object_id)
    return Deleted(deleted=1)


def _item(item: Item) -> dict[str, Any]:
    fields = {"object_id": item.object_id, "text": item.text, "fields": item.fields}
    return {name: value for name, value in fields.items() if value is not None}
