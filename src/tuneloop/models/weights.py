"""The weights of a run's model as one safetensors file.

A model's weights may lie in several files: those of a Router's two encoders, of its further layers, or shards of one.
They become one file as they are sent: the name of each tensor is preceded by the folder of its file, below the folder
that all files share, with dots (`query_0_Transformer.embeddings.word_embeddings.weight`). A model with one file is
sent as it is.
"""

import json
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tuneloop.errors import Conflict, NotFound
from tuneloop.tracking import Tracking

FILENAME = "model.safetensors"
CHUNK = 1 << 20
# The header is padded so that the tensors lie aligned.
ALIGNMENT = 8


class Weights:
    """Opens the weights of runs' models for download."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    def open(self, run_id: str) -> tuple[str, int, Iterator[bytes]]:
        """The file's name, its size in bytes, and its bytes. The model is fetched before the first chunk is given.

        Raises:
            NotFound: there is no such run, or its model has no weights in safetensors.
        """
        paths = [
            PurePosixPath(file.path)
            for file in self._tracking.list_model_files(run_id)
            if file.path.endswith(".safetensors")
        ]
        if not paths:
            raise NotFound(f"run {run_id} has no stored model with weights in safetensors")
        folder = tempfile.TemporaryDirectory(prefix="tuneloop-")
        try:
            files = []
            for number, path in enumerate(paths):
                target = Path(folder.name, str(number))
                self._tracking.artifacts.fetch(run_id, str(path), target)
                files.append((path, target))
            size, chunks = _single(files[0][1]) if len(files) == 1 else merged(files)
        except BaseException:
            folder.cleanup()
            raise
        return FILENAME, size, _cleaning(chunks, folder)


def merged(files: list[tuple[PurePosixPath, Path]]) -> tuple[int, Iterator[bytes]]:
    """Size and bytes of one safetensors file with the tensors of several.

    Args:
        files: the path of each within the model, and where it lies.

    Raises:
        Conflict: two tensors have the same name.
    """
    header: dict[str, Any] = {}
    shared = _shared([path.parent for path, _ in files])
    parts, position = [], 0
    for path, file in files:
        start, tensors = _header(file)
        prefix = "".join(f"{part}." for part in path.parent.parts[len(shared) :])
        for name, tensor in tensors.items():
            if prefix + name in header:
                raise Conflict(f"two tensors of the model are called {prefix + name!r}")
            header[prefix + name] = {**tensor, "data_offsets": [position + each for each in tensor["data_offsets"]]}
        parts.append((file, start))
        position += file.stat().st_size - start
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return 8 + len(text) + position, _joined(struct.pack("<Q", len(text)) + text, parts)


def _header(file: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors of a safetensors file begin, and what it says of each."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        tensors = json.loads(stream.read(length))
    tensors.pop("__metadata__", None)
    return 8 + length, tensors


def _shared(folders: list[PurePosixPath]) -> list[str]:
    shared = []
    for parts in zip(*(folder.parts for folder in folders), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


def _single(file: Path) -> tuple[int, Iterator[bytes]]:
    return file.stat().st_size, _joined(b"", [(file, 0)])


def _joined(head: bytes, parts: list[tuple[Path, int]]) -> Iterator[bytes]:
    if head:
        yield head
    for file, start in parts:
        with file.open("rb") as stream:
            stream.seek(start)
            while chunk := stream.read(CHUNK):
                yield chunk


def _cleaning(chunks: Iterator[bytes], folder: "tempfile.TemporaryDirectory[str]") -> Iterator[bytes]:
    with folder:
        yield from chunks
