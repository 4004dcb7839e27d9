"""Every setting of the service, in one class: `TUNELOOP_*` variables or a `.env` file, all optional."""

import os
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tuneloop.errors import InvalidInput

Role = Literal["ingest", "read", "admin"]


class ApiKey(NamedTuple):
    """A key that clients send as `Authorization: Bearer {secret}`."""

    name: str
    role: Role
    secret: str


class Settings(BaseSettings):
    """The configuration of one Tuneloop installation; each field is read from `TUNELOOP_{FIELD}`."""

    model_config = SettingsConfigDict(env_prefix="TUNELOOP_", env_file=".env", extra="ignore", env_ignore_empty=True)

    data_dir: Path = Field(Path("tuneloop-data"), description="Folder that holds everything the service keeps.")
    database_url: str | None = Field(None, description="SQLAlchemy URL of the database (default: SQLite in data_dir).")
    host: str = Field("127.0.0.1", description="Address the API listens on; any but loopback requires api_keys.")
    port: int = Field(5000, ge=1, le=65535, description="Port of the API.")
    mlflow_tracking_uri: str | None = Field(None, description="Your own MLflow server (default: one is started).")
    mlflow_port: int = Field(5001, ge=1, le=65535, description="Port of the MLflow server that is started for you.")
    mlflow_public_url: str | None = Field(None, description="Address of MLflow as a browser reaches it, for links.")
    mlflow_retry_seconds: float = Field(600, gt=0, description="How long a worker waits for an MLflow that is away.")
    api_keys: str = Field("", description="Comma-separated name:role:secret; roles: ingest, read, admin.")
    max_body_mb: float = Field(10, gt=0, description="Largest request body in MiB; streamed imports have no limit.")
    session_settle_seconds: float = Field(0, ge=0, description="A release takes sessions older than this.")
    retention_days: float | None = Field(None, gt=0, description="Forget sessions this many days after arrival.")
    plugins: Path | None = Field(None, description="Folder of *.py files with methods of your own.")
    snapshot_url: str | None = Field(None, description="fsspec URL for snapshots (default: data_dir/snapshots).")
    embeddings_url: str | None = Field(None, description="fsspec URL for embeddings (default: data_dir/embeddings).")
    cache_max_gb: float = Field(10, gt=0, description="Disk space for the encoder caches, in GiB.")
    table_roots: str = Field("", description="Folders that tables are read from, separated as in PATH.")
    table_connections: str = Field("", description="Databases that tables are read from: name=URL, by spaces.")
    table_writable: str = Field("", description="Connections that tables are written to, by names, by spaces.")
    table_memory_gb: float = Field(4, gt=0, description="Memory that reading tables may take, in GiB.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much the parts log.")

    @field_validator("api_keys")
    @classmethod
    def _keys_parse(cls, value: str) -> str:
        _parse_keys(value)
        return value

    @field_validator("table_connections")
    @classmethod
    def _connections_parse(cls, value: str) -> str:
        _parse_connections(value)
        return value

    @property
    def writable(self) -> tuple[str, ...]:
        """The names of the databases that tables are written to."""
        return tuple(self.table_writable.split())

    @field_validator("table_writable")
    @classmethod
    def _writable_known(cls, value: str, info: ValidationInfo) -> str:
        known = _parse_connections(info.data.get("table_connections", ""))
        for name in value.split():
            if name not in known:
                raise ValueError(f"TUNELOOP_TABLE_WRITABLE names {name!r}, which TUNELOOP_TABLE_CONNECTIONS does not")
        return value

    @cached_property
    def connections(self) -> dict[str, str]:
        """The databases that tables are read from, by the names that sources call them."""
        return _parse_connections(self.table_connections)

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders that tables are read from."""
        return tuple(Path(part).expanduser() for part in self.table_roots.split(os.pathsep) if part.strip())

    @property
    def uploads_dir(self) -> Path:
        """Where the tables lie that clients sent."""
        return self.data_dir.absolute() / "uploads"

    @property
    def predictions_dir(self) -> Path:
        """Where predictions lie that are to be downloaded."""
        return self.data_dir.absolute() / "predictions"

    @cached_property
    def keys(self) -> tuple[ApiKey, ...]:
        """The API keys; empty when the service is open to whoever reaches it."""
        return _parse_keys(self.api_keys)

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the database."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute()}/tuneloop.sqlite"

    @property
    def queue_url(self) -> str:
        """The URL of DBOS's system database."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute()}/queue.sqlite"

    @property
    def tracking_uri(self) -> str:
        """The MLflow server that runs are tracked in."""
        return (self.mlflow_tracking_uri or f"http://127.0.0.1:{self.mlflow_port}").rstrip("/")

    @property
    def mlflow_url(self) -> str:
        """MLflow's address for links that a person opens."""
        return (self.mlflow_public_url or self.tracking_uri.replace("127.0.0.1", "localhost")).rstrip("/")

    @property
    def snapshots(self) -> str:
        """The fsspec URL under which snapshots lie."""
        return (self.snapshot_url or str(self.data_dir.absolute() / "snapshots")).rstrip("/")

    @property
    def embeddings(self) -> str:
        """The fsspec URL under which the embeddings of the catalogue lie."""
        return (self.embeddings_url or str(self.data_dir.absolute() / "embeddings")).rstrip("/")

    @property
    def work_dir(self) -> Path:
        """Where workers keep local copies while a task runs; emptied afterwards."""
        return self.data_dir.absolute() / "work"

    def check_exposure(self) -> None:
        """Refuse to listen where others can reach the API while it is open to everybody.

        Raises:
            InvalidInput: the address is not a loopback address and there are no API keys.
        """
        if not self.is_loopback and not self.keys:
            raise InvalidInput(
                f"TUNELOOP_HOST is {self.host}, which others can reach, and there is no API key: "
                "set TUNELOOP_API_KEYS=name:role:secret, or TUNELOOP_HOST=127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the API."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:  # a name can lead anywhere
            return False


def _parse_keys(text: str) -> tuple[ApiKey, ...]:
    keys = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, rest = entry.partition(":")
        role, _, secret = rest.partition(":")
        if not (name and secret):
            raise ValueError("TUNELOOP_API_KEYS takes name:role:secret, separated by commas")
        if role not in get_args(Role):
            raise ValueError(f"the role of key {name!r} must be one of {', '.join(get_args(Role))}, not {role!r}")
        keys.append(ApiKey(name, cast(Role, role), secret))
    if len({key.secret for key in keys}) < len(keys):
        raise ValueError("two of TUNELOOP_API_KEYS share a secret")
    return tuple(keys)


def _parse_connections(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in text.split():
        name, mark, url = entry.partition("=")
        if not mark or "://" not in url or "/" in name or "#" in name or not name:
            raise ValueError("TUNELOOP_TABLE_CONNECTIONS takes name=URL, separated by spaces: shop=postgresql://…")
        if name in found:
            raise ValueError(f"two of TUNELOOP_TABLE_CONNECTIONS are called {name!r}")
        found[name] = url
    return found
