"""The files that embeddings of items lie in: parts while a task writes them, one file when it is done.

All hold rows in the order of their ids' code points, as the catalogue gives them, so that the next task reads what is
there beside the catalogue, and nothing is ever held in memory as a whole.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from numpy.typing import NDArray

from tuneloop.tasks.parquet import replacing

log = structlog.get_logger(__name__)
Vectors = NDArray[np.float32]

MODEL_KEY, VERSION_KEY, RUN_KEY = b"tuneloop.model", b"tuneloop.version", b"tuneloop.run_id"
READ_ROWS = 1024


def text_hash(text: str) -> str:
    """What tells whether an item's text changed: 128 bits of BLAKE2b, in hex."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def embeddings_schema(dimensions: int, *, model: str, version: str, run_id: str) -> pa.Schema:
    """The columns, with the model that the embeddings are of in the file's metadata."""
    columns = [
        pa.field("object_id", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32(), dimensions), nullable=False),
        pa.field("text_hash", pa.string(), nullable=False),
    ]
    told: dict[bytes | str, bytes | str] = {
        MODEL_KEY: model.encode(),
        VERSION_KEY: version.encode(),
        RUN_KEY: run_id.encode(),
    }
    return pa.schema(columns, metadata=told)


class Known:
    """Embeddings that were written before, read beside the catalogue in the order of ids.

    Args:
        urls: files in the order of their ids; those that are no embeddings of this run's model are passed over.
        run_id: the run whose model the embeddings must be of.
    """

    def __init__(self, urls: Sequence[str], run_id: str) -> None:
        self._run_id = run_id.encode()
        self._batches = self._read(urls)
        self._rows: list[tuple[str, str, int]] = []  # id, hash, row of the batch
        self._vectors: Vectors = np.zeros((0, 0), np.float32)
        self._at = 0

    def take(self, hashes: Mapping[str, str]) -> dict[str, Vectors]:
        """The embeddings (d,) of those items whose hash is the same; ids must be larger at each call."""
        found: dict[str, Vectors] = {}
        last = max(hashes, default="")
        while self._ready() and self._rows[self._at][0] <= last:
            object_id, known, row = self._rows[self._at]
            if hashes.get(object_id) == known:
                found[object_id] = self._vectors[row]
            self._at += 1
        return found

    def _ready(self) -> bool:
        while self._at >= len(self._rows):
            batch = next(self._batches, None)
            if batch is None:
                return False
            ids, hashes = (
                [str(value) for value in batch.column(name).to_pylist()] for name in ("object_id", "text_hash")
            )
            self._rows = list(zip(ids, hashes, range(len(ids)), strict=True))
            embedding: Any = batch.column("embedding")
            self._vectors, self._at = embedding.flatten().to_numpy(zero_copy_only=False).reshape(len(ids), -1), 0
        return True

    def _read(self, urls: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for url in urls:
            try:
                with fsspec.open(url, "rb") as stream:
                    file = pq.ParquetFile(stream)
                    if (file.schema_arrow.metadata or {}).get(RUN_KEY) == self._run_id:
                        yield from file.iter_batches(READ_ROWS, columns=["object_id", "embedding", "text_hash"])
            except (pa.ArrowException, OSError, KeyError):
                log.warning("earlier embeddings cannot be read; encoding again", url=url, exc_info=True)


class Parts:
    """The parts that a task has written so far, in a folder of its own, and the one file that they become.

    Each time the work begins anew a new sequence of parts is begun; those of earlier ones, whole files every one, are
    what need not be encoded again.
    """

    def __init__(self, url: str) -> None:
        self._filesystem, self._folder = fsspec.core.url_to_fs(url)
        self._earlier = self._sequences()
        self._number = len(self._earlier) + 1
        self._written: list[str] = []

    def earlier(self) -> list[list[str]]:
        """The parts of each interrupted sequence, in order."""
        return [[self._url(path) for path in paths] for paths in self._earlier]

    def write(self, schema: pa.Schema, ids: Sequence[str], vectors: Vectors, hashes: Sequence[str]) -> None:
        """Write the next part: ids in order, vectors (N, d), and the hashes of the texts."""
        size = schema.field("embedding").type.list_size
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(vectors), pa.float32()), size)
        table = pa.table([pa.array(ids, pa.string()), embedding, pa.array(hashes, pa.string())], schema=schema)
        url = self._url(f"{self._folder}/{self._number:04}/{len(self._written):08}.parquet")
        with replacing(url, schema) as writer:
            writer.write_table(table)
        self._written.append(url)

    def join(self, url: str, schema: pa.Schema, *, check: Callable[[], None]) -> None:
        """Make one file of the parts of this sequence, a row group each. `check` is called often and may raise."""
        with replacing(url, schema) as writer:
            for part in self._written:
                check()
                with fsspec.open(part, "rb") as stream:
                    writer.write_table(pq.ParquetFile(stream).read())

    def delete(self) -> None:
        """Delete all parts."""
        if self._filesystem.exists(self._folder):
            self._filesystem.rm(self._folder, recursive=True)

    def _sequences(self) -> list[list[str]]:
        if not self._filesystem.exists(self._folder):
            return []
        folders = sorted(path for path in self._filesystem.ls(self._folder, detail=False))
        return [
            sorted(path for path in self._filesystem.ls(folder, detail=False) if path.endswith(".parquet"))
            for folder in folders
        ]

    def _url(self, path: str) -> str:
        return str(self._filesystem.unstrip_protocol(path))


def delete_file(url: str) -> None:
    """Delete a file that may be gone already."""
    filesystem, path = fsspec.core.url_to_fs(url)
    if filesystem.exists(path):
        filesystem.rm(path)


def is_file(url: str) -> bool:
    """Whether there is a file."""
    filesystem, path = fsspec.core.url_to_fs(url)
    return bool(filesystem.isfile(path))


def dimensions_of(url: str, run_id: str) -> int | None:
    """The length of the embeddings in a file; None when they are not of this run's model."""
    try:
        with fsspec.open(url, "rb") as stream:
            schema = pq.ParquetFile(stream).schema_arrow
            same = (schema.metadata or {}).get(RUN_KEY) == run_id.encode()
            return int(schema.field("embedding").type.list_size) if same else None
    except (pa.ArrowException, OSError, KeyError, AttributeError):
        return None
