"""Tuneloop turns what people do into better models."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuneloop.client import Client

__version__ = version("tuneloop")
__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Client":  # on demand: the service's processes need no client
        from tuneloop.client import Client

        return Client
    raise AttributeError(f"module 'tuneloop' has no attribute {name!r}")
