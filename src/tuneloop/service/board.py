"""What `tuneloop up` says in the terminal; plain lines when the output is no terminal."""

import contextlib
import signal
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.status import Status
from rich.table import Table

import tuneloop
from tuneloop.settings import Settings

PATIENCE_SECONDS = 30.0


class Board:
    """The few lines a person sees: starting, ready with links, a part that died, stopping."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._console = Console(highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._links_shown = False
        self._waiting_since = time.monotonic()
        self._waiting_for = ""

    def __enter__(self) -> Self:
        self._print(f"[bold]Tuneloop[/bold] {tuneloop.__version__}")
        self._wait("starting…")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settle()

    def ready(self) -> None:
        """All parts are well: the links, or one line when they were shown before."""
        self._settle()
        if self._links_shown:
            self._print("[green]●[/green] all parts are up again")
            return
        self._links_shown = True
        host = "localhost" if self._settings.is_loopback else self._settings.host
        api = f"http://{host}:{self._settings.port}"
        table = Table.grid(padding=(0, 2))
        table.add_row("[green]●[/green] API", f"[link={api}]{api}[/link]", f"[dim]docs at {api}/docs[/dim]")
        mlflow = self._settings.mlflow_url
        table.add_row("[green]●[/green] MLflow", f"[link={mlflow}]{mlflow}[/link]", "[dim]every run, live[/dim]")
        data = self._settings.data_dir
        table.add_row("[green]●[/green] worker", "waits for tasks", f"[dim]data and logs in {data}[/dim]")
        self._print(table)
        self._print("[dim]Ctrl-C stops all of it.[/dim]")

    def waiting(self, health: Any) -> None:
        """Not well yet; after a while, say what is missing."""
        missing = _missing(health)
        if time.monotonic() - self._waiting_since > PATIENCE_SECONDS and missing != self._waiting_for:
            self._waiting_for = missing
            self._print(f"[yellow]●[/yellow] still waiting for {missing}")

    def ended(self, name: str, status: int, delay: float, lines: list[str]) -> None:
        """A part ended by itself and will be started again after `delay` seconds."""
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        self._print(f"[yellow]●[/yellow] {name} ended ({how}); starting it again in {delay:g} s")
        for line in lines:
            self._print(f"  {line[:300]}", style="dim", markup=False)
        self._wait(f"restarting {name}…")

    def gave_up(self, name: str, lines: list[str]) -> None:
        """A part cannot run with these settings."""
        self._settle()
        self._print(f"[red]●[/red] {name} cannot start; the end of {self._settings.data_dir}/logs/{name}.log:")
        for line in lines:
            self._print(f"  {line}", markup=False)

    def stopping(self) -> None:
        """The parts are asked to end."""
        self._wait("stopping…")

    def stopped(self) -> None:
        """All parts have ended."""
        self._settle()
        self._print("[dim]stopped[/dim]")

    def _print(self, *what: Any, **how: Any) -> None:
        with contextlib.suppress(OSError):  # a terminal that was closed must not keep the parts from being stopped
            self._console.print(*what, **how)

    def _wait(self, text: str) -> None:
        self._settle()
        self._waiting_since = time.monotonic()
        self._waiting_for = ""
        if self._console.is_terminal:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._print(text)

    def _settle(self) -> None:
        if self._status is not None:
            status, self._status = self._status, None
            with contextlib.suppress(OSError):
                status.stop()


def _missing(health: Any) -> str:
    parts = health.get("parts") if isinstance(health, Mapping) else None
    if not parts:
        return "the API to answer"
    return "; ".join(f"{name}: {part['detail']}" for name, part in parts.items() if not part["ok"])
