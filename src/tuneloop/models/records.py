"""What the registry holds: models, versions, and how they may be called."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuneloop.errors import InvalidInput

MAX_NAME_LENGTH = 250


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    `metrics` (the last value of each), `task_id` and `method` are those of its run; only `ModelRegistry.models` and
    `.model` fill them in. `created_at` is in microseconds since 1970.
    """

    name: str
    version: str
    run_id: str | None
    created_at: int
    description: str | None = None
    aliases: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    task_id: str | None = None
    method: str | None = None


@dataclass(frozen=True)
class Model:
    """A registered model: its versions, newest first, and the version that each alias points at."""

    name: str
    description: str | None
    created_at: int
    versions: tuple[Version, ...]
    aliases: Mapping[str, str]


def to_version(version: Any) -> Version:
    """MLflow's model version as ours."""
    return Version(
        name=version.name,
        version=str(version.version),
        run_id=version.run_id or None,
        created_at=version.creation_timestamp * 1000,
        description=version.description or None,
        aliases=tuple(sorted(version.aliases or ())),
    )


def check_model_name(name: str) -> None:
    """Make sure that a model can be called so.

    Raises:
        InvalidInput: it cannot.
    """
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        problem = f"has {len(name)} characters, 1 to {MAX_NAME_LENGTH} are possible"
    elif "/" in name or ":" in name:
        problem = "holds `/` or `:`"
    elif any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        problem = "holds a control character or a lone surrogate"
    elif name != name.strip() or name in (".", ".."):
        problem = "begins or ends with a blank, or is `.` or `..`"
    else:
        return
    raise InvalidInput(f"{name[:100]!r} is no possible model name: it {problem}", field="name")
