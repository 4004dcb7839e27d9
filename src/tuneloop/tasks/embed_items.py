"""Work on the embeddings of all items: read the catalogue in order, encode what is new, write one Parquet file."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import structlog

from tuneloop.catalog.store import Catalog
from tuneloop.models.encoders import Encoder
from tuneloop.models.loading import load_run, need_encoder
from tuneloop.models.registry import ModelRegistry
from tuneloop.settings import Settings
from tuneloop.tasks.attempt import ending, interruptible
from tuneloop.tasks.embedding_files import (
    Known,
    Parts,
    Vectors,
    delete_file,
    dimensions_of,
    embeddings_schema,
    is_file,
    text_hash,
)
from tuneloop.tasks.follower import Follower
from tuneloop.tasks.store import EMBED_ITEMS, TaskRecord, TaskStore

log = structlog.get_logger(__name__)

# A part is what a kill may cost, what is sorted by length together, and a row group of the file.
PART_ITEMS = 4096
PART_CHARACTERS = 32 * 2**20
PAGE_ITEMS = 256
MAX_EARLIER = 1000

Page = list[tuple[str, str]]  # ids and texts


class EmbedItems:
    """Does tasks of the kind `embed_items`."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: TaskStore,
        catalog: Catalog,
        registry: ModelRegistry,
        worker_id: str,
        part_items: int = PART_ITEMS,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._registry = registry
        self._url = settings.embeddings
        self._work_dir = settings.work_dir / worker_id
        self._part_items = part_items

    def work(self, task: TaskRecord) -> None:
        """Do an attempt at a task, or go on with it; whatever happens ends up in the task's record."""
        with Follower(self._store, task.id, task.attempt) as follower:
            end = ending(task.id, lambda: self._attempt(task, follower))
        self._store.update(task.id, task.attempt, **end)
        log.info("task ended", task_id=task.id, **end)

    def _attempt(self, task: TaskRecord, follower: Follower) -> dict[str, Any]:
        output = self._output(task)
        follower.progress(stage="loading the model")
        model = _Model(self._registry, task, self._work_dir / task.id, follower)
        try:
            parts = Parts(f"{self._url}/{task.id}.parts")
            before = self._earlier(task)
            # What an earlier task wrote, what this one just finished, and what it wrote before it was interrupted.
            urls = [*(each.output for each in before[:1] if each.output), output]
            earlier = [[url] for url in urls if is_file(url)] + parts.earlier()
            self._write_parts(model, parts, earlier, follower)
            follower.progress(stage="writing the file")
            parts.join(output, model.schema, check=follower.check)
        finally:
            model.close()
        parts.delete()
        for each in before:
            if not (_named(task) or _named(each)) and each.output is not None:
                delete_file(each.output)  # of the files without a name of their own the newest stays
        return {"output": output}

    def _write_parts(self, model: "_Model", parts: Parts, earlier: Sequence[list[str]], follower: Follower) -> None:
        """Write the embeddings of all items as parts."""
        known = [Known(urls, model.run_id) for urls in earlier]
        model.dimensions = next(filter(None, (dimensions_of(url, model.run_id) for urls in earlier for url in urls)), 0)
        total = self._catalog.count()
        done = encoded = 0
        for page in self._pages():
            follower.check()
            hashes = {object_id: text_hash(text) for object_id, text in page}
            found: dict[str, Vectors] = {}
            for each in known:
                found |= each.take(hashes)
            new = [(object_id, text) for object_id, text in page if object_id not in found]
            if new:
                vectors = model.encode([text for _, text in new], _Progress(follower, done + len(found), total))
                found |= zip((object_id for object_id, _ in new), vectors, strict=True)
            rows = np.stack([found[object_id] for object_id in hashes])
            parts.write(model.schema, list(hashes), rows, list(hashes.values()))
            done, encoded = done + len(page), encoded + len(new)
            follower.progress(stage="embedding", items_done=done, items_total=max(total, done), items_encoded=encoded)

    def _pages(self) -> Iterator[Page]:
        """The catalogue in the order of ids, a part at a time: as many items, or as much text, as a part takes."""
        page: Page = []
        characters, after = 0, None
        while True:
            items, after = self._catalog.page(after=after, limit=min(PAGE_ITEMS, self._part_items))
            for item in items:
                text = item.content
                if page and (len(page) >= self._part_items or characters + len(text) > PART_CHARACTERS):
                    yield page
                    page, characters = [], 0
                page.append((item.object_id, text))
                characters += len(text)
            if after is None:
                break
        if page:
            yield page

    def _output(self, task: TaskRecord) -> str:
        return f"{self._url}/{_named(task) or f'{task.id}.parquet'}"

    def _earlier(self, task: TaskRecord) -> list[TaskRecord]:
        """The tasks of the same model version whose files are there, newest first."""
        wanted = task.settings or {}

        def same(other: TaskRecord) -> bool:
            settings = other.settings or {}
            return other.id != task.id and all(settings.get(key) == wanted.get(key) for key in ("model", "version"))

        done = self._store.list(kind=EMBED_ITEMS, status="done", limit=MAX_EARLIER)
        return [each for each in done if same(each) and each.output is not None and is_file(each.output)]


class _Model:
    """The model of a task: found at once, loaded when the first text has to be encoded."""

    def __init__(self, registry: ModelRegistry, task: TaskRecord, folder: Path, follower: Follower) -> None:
        self._registry = registry
        self._folder = folder
        self._follower = follower
        self._encoder: Encoder | None = None
        settings = task.settings or {}
        self._version = interruptible(
            lambda: registry.resolve(str(settings["model"]), str(settings["version"])), follower.check
        )
        self.run_id = interruptible(lambda: registry.source_run(self._version), follower.check)
        self.dimensions = 0  # 0 while nobody knows

    @property
    def schema(self) -> pa.Schema:
        """The schema of the files."""
        if not self.dimensions:  # nothing to encode, and nothing was before
            self.encode([""], lambda _: None)
        version = self._version
        return embeddings_schema(self.dimensions, model=version.name, version=version.version, run_id=self.run_id)

    def encode(self, texts: Sequence[str], told: Callable[[int], None]) -> Vectors:
        """The embeddings (N, d) of items."""
        check = self._follower.check
        if self._encoder is None:
            loaded = interruptible(lambda: load_run(self._registry, self.run_id, self._folder), check)
            self._encoder = need_encoder(loaded)
        vectors = self._encoder.encode_many(texts, "item", check=check, told=told)
        self.dimensions = vectors.shape[1]
        return vectors

    def close(self) -> None:
        """Give back the memory, and the disk."""
        if self._encoder is not None:
            self._encoder.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Progress:
    """Tells how many items are done while a part is encoded."""

    def __init__(self, follower: Follower, done: int, total: int) -> None:
        self._follower = follower
        self._done = done
        self._total = total

    def __call__(self, count: int) -> None:
        """Told of so many more."""
        self._done += count
        self._follower.progress(stage="embedding", items_done=self._done, items_total=max(self._total, self._done))


def _named(task: TaskRecord) -> str | None:
    """The name that the task's file was given."""
    name = (task.settings or {}).get("output")
    return None if name is None else str(name)
