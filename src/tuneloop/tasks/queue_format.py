"""How workflows' inputs and steps' answers are stored: as JSON, where DBOS would pickle."""

import json
from typing import Any

from dbos import Serializer

from tuneloop.errors import Conflict, InvalidInput, NotFound, TuneloopError, Unavailable
from tuneloop.iteration.job import IterationFailed
from tuneloop.methods.contract import Canceled

# Errors that a step may end with and that mean the same when the step is remembered.
_KNOWN = {
    kind.__name__: kind
    for kind in (Canceled, IterationFailed, TuneloopError, Unavailable, NotFound, Conflict, InvalidInput)
}


class JsonSerializer(Serializer):
    """JSON, with exceptions as their name and text."""

    def serialize(self, data: Any) -> str:
        """JSON of anything our workflows pass around."""
        return json.dumps(data, default=_exception)

    def deserialize(self, serialized_data: str) -> Any:
        """What `serialize` was given; an exception of an unknown kind comes back as a RuntimeError."""
        data = json.loads(serialized_data)
        if isinstance(data, dict) and set(data) == {"__error__", "text"}:
            known = _KNOWN.get(data["__error__"])
            return known(data["text"]) if known else RuntimeError(f"{data['__error__']}: {data['text']}")
        return data

    def name(self) -> str:
        """How DBOS tells formats apart."""
        return "tuneloop_json"


def _exception(value: Any) -> Any:
    if isinstance(value, BaseException):
        return {"__error__": type(value).__name__, "text": str(value)}
    raise TypeError(f"{type(value).__name__} cannot be stored in a workflow")
