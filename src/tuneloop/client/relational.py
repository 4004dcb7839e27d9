"""The client's calls about tables: sending them, and what is wrong with them."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tuneloop.client.errors import ClientError, InvalidRequestError
from tuneloop.client.jobs import Job
from tuneloop.client.transport import Transport
from tuneloop.client.types import DatasetProblem
from tuneloop.relational.sources import SUFFIXES, is_path, split_path
from tuneloop.relational.uploads import digest_of

if TYPE_CHECKING:
    from tuneloop.client.client import Client
    from tuneloop.relational.dataset import Dataset

Progress = Callable[[str, int, int], None]

_PATH = "/api/v1/relational"
_CHUNK = 1024 * 1024
_LONG = 3600.0  # seconds that looking at large tables may take


class RelationalCalls:
    """Learning from tables. Mixed into `Client`."""

    _transport: Transport

    def validate(self, dataset: Dataset, *, progress: Progress | None = None) -> tuple[DatasetProblem, ...]:
        """All that is wrong with a dataset, each with its table, column and fix; empty when all is well.

        Local files that the service cannot see are sent first, those alone that it does not have.

        Args:
            dataset: the tables and the task.
            progress: called while files are sent, with a file's name, the bytes sent and all of them. By default a
                bar is shown where a person looks on.

        Raises:
            ClientError: a local file cannot be read.
            InvalidInputError: the service does not accept the dataset.
        """
        document = self.send_tables(dataset, progress=progress).document()
        answer = self._transport.call("POST", f"{_PATH}/validate", body={"dataset": document}, timeout=_LONG)
        return DatasetProblem.parse_all(answer["problems"])

    def fit(
        self,
        dataset: Dataset,
        settings: Mapping[str, Any] | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        progress: Progress | None = None,
    ) -> Job:
        """Ask for a model of the dataset's task; answers once the dataset was sent and found sound.

        Args:
            dataset: the tables and the task; local files that the service cannot see are sent first.
            settings: of the search: `max_runs`, `max_minutes`, `learners`, `blend`, `seed`, `hops`, `text_model`.
            metadata: anything you want to find in the task again.
            idempotency_key: the same key with the same request gives the same task. By default a new one for each
                call.
            progress: as for `validate`.

        Raises:
            ClientError: a local file cannot be read.
            InvalidInputError: a setting is not accepted, or the dataset has problems; `body` lists them.

        Example:
            >>> job = client.fit(Dataset.load("shop.yaml"), {"max_minutes": 5})
            >>> job.stream_logs()
            >>> job.register_model("churn")
            Registered(name='churn', version='1')
        """
        body = {
            "dataset": self.send_tables(dataset, progress=progress).document(),
            "settings": dict(settings or {}),
            "metadata": dict(metadata or {}),
            "idempotency_key": idempotency_key or uuid.uuid4().hex,
        }
        answer = self._transport.call("POST", f"{_PATH}/task", body=body, timeout=_LONG)
        return Job(cast("Client", self), answer["id"])

    def send_tables(self, dataset: Dataset, *, progress: Progress | None = None) -> Dataset:
        """The dataset as the service can read it: files it cannot see are uploaded and stand for themselves no more.

        Raises:
            ClientError: a local file cannot be read, or is of a kind that cannot be sent.
        """
        sources = {each.source for each in dataset.tables}
        if dataset.task is not None and dataset.task.source is not None:
            sources |= {source for _, source in dataset.task.source.items()}
        sent = self._send_sources(sources, progress)
        return dataset.map_sources(lambda source: sent.get(source, source))

    def send_source(self, source: str, *, progress: Progress | None = None) -> str:
        """A source as the service can read it: a file it cannot see is uploaded.

        Raises:
            ClientError: a local file cannot be read, or is of a kind that cannot be sent.
        """
        return self._send_sources({source}, progress).get(source, source)

    def _send_sources(self, sources: Iterable[str], progress: Progress | None) -> dict[str, str]:
        """For each source that is a path, what the service reads instead."""
        local = {source: Path(source).absolute() for source in sources if is_path(source)}
        absent = set(self._missing([_described(path) for path in local.values()]))
        sent: dict[str, str] = {}
        for source, path in local.items():
            sent[source] = self.upload(path, progress=progress) if str(path) in absent else str(path)
        return sent

    def upload(self, path: Path | str, *, progress: Progress | None = None) -> str:
        """Send a Parquet or CSV file, unless the service has it; its source, `upload:…`.

        Raises:
            ClientError: it cannot be read, or is of another kind.
        """
        path = Path(path)
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise InvalidRequestError(
                f"{path} cannot be sent: send .parquet or .csv files, or put it where the service reads tables "
                "(TUNELOOP_TABLE_ROOTS)"
            )
        try:
            source = digest_of(path)
            size = path.stat().st_size
        except OSError as error:
            raise ClientError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
        if not self._missing([{"source": source}]):
            return source
        with _bar(path.name, size) as shown:
            answer = self._transport.call(
                "POST",
                f"{_PATH}/upload",
                params={"name": path.name},
                content=lambda: _read(path, size, progress or shown),
                content_type="application/octet-stream",
                timeout=_LONG,
            )
        return str(answer["source"])

    def _missing(self, sources: list[dict[str, object]]) -> list[str]:
        if not sources:
            return []
        return list(self._transport.call("POST", f"{_PATH}/sources", body={"sources": sources})["missing"])


def _described(path: Path) -> dict[str, object]:
    place, _ = split_path(str(path))
    try:
        found = place.stat()
    except FileNotFoundError:
        raise ClientError(f"there is no file {place}") from None
    except OSError as error:
        raise ClientError(f"cannot read {place}: {(error.strerror or str(error)).lower()}") from None
    if place.is_dir():
        return {"source": str(path)}
    return {"source": str(path), "size": found.st_size, "modified_ns": found.st_mtime_ns}


def _read(path: Path, size: int, progress: Progress) -> Iterator[bytes]:
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
            done += len(chunk)
            progress(path.name, done, size)


class _bar:
    """A progress bar on stderr, where a person looks on."""

    def __init__(self, name: str, size: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("sending {task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(name, total=size)

    def __enter__(self) -> Progress:
        self._progress.start()
        return lambda name, done, size: self._progress.update(self._task, completed=done)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
