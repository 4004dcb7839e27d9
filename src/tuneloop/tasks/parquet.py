"""Parquet files that are there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq


@contextmanager
def replacing(url: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet file written beside `url` and put in its place when it is whole."""
    filesystem, path = fsspec.core.url_to_fs(url)
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    partial = f"{path}.part"
    try:
        with filesystem.open(partial, "wb") as stream, pq.ParquetWriter(stream, schema) as writer:
            yield writer
        filesystem.mv(partial, path)
    finally:
        if filesystem.exists(partial):
            filesystem.rm(partial)
