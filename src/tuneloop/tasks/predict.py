"""Work on predictions of a table of entities: read them, predict a chunk at a time, write the whole where asked."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from tuneloop.errors import InvalidInput
from tuneloop.models.loading import load_run, need_table_model
from tuneloop.models.registry import ModelRegistry
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.entities import columns_of, read_entities
from tuneloop.relational.model import TableModel
from tuneloop.relational.opening import open_tables
from tuneloop.relational.outputs import Outputs
from tuneloop.relational.scoring import score
from tuneloop.relational.sources import Sources
from tuneloop.settings import Settings
from tuneloop.tasks.attempt import ending, interruptible
from tuneloop.tasks.follower import Follower
from tuneloop.tasks.publication import Publication
from tuneloop.tasks.store import TaskRecord, TaskStore

log = structlog.get_logger(__name__)

# Each chunk looks at all tables once; its features are held in memory.
CHUNK_ROWS = 100_000


class Predict:
    """Does tasks of the kind `predict`."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: TaskStore,
        registry: ModelRegistry,
        sources: Sources,
        outputs: Outputs,
        worker_id: str,
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        self._store = store
        self._registry = registry
        self._sources = sources
        self._outputs = outputs
        self._memory_gb = settings.table_memory_gb
        self._work_dir = settings.work_dir / worker_id
        self._chunk_rows = chunk_rows

    def work(self, task: TaskRecord) -> None:
        """Do an attempt at a task; whatever happens ends up in the task's record. What was killed begins anew."""
        folder = self._work_dir / task.id
        publication: list[Publication] = []
        with Follower(self._store, task.id, task.attempt) as follower:
            end = ending(task.id, lambda: self._attempt(task, follower, folder, publication))
            if end["status"] != "done":
                for each in publication:
                    each.undo()
            follower.log(f"{end['status']}: {end['detail']}" if end.get("detail") else str(end["status"]))
        shutil.rmtree(folder, ignore_errors=True)
        self._store.update(task.id, task.attempt, **end)
        log.info("task ended", task_id=task.id, **end)

    def _attempt(self, task: TaskRecord, follower: Follower, folder: Path, begun: list[Publication]) -> dict[str, Any]:
        asked = task.settings or {}
        output = self._outputs.locate(str(asked["output"]))
        publication = Publication(task, output, overwrite=bool(asked.get("overwrite")), follower=follower)
        if publication.is_done():
            return {"output": output.name}
        begun.append(publication)
        publication.check()
        follower.progress(stage="loading the model")
        model = interruptible(lambda: self._load(asked, folder / "model"), follower.check)
        entities = interruptible(lambda: self._entities(model, str(asked["source"])), follower.check)
        follower.log(
            f"{len(entities):,} entities of {asked['source']}, predicted by {asked['model']}/{asked['version']}"
        )
        staged = folder / "predictions.parquet"
        metrics = self._predict(task, model, entities, staged, follower)
        follower.progress(stage="writing the output")
        publication.publish(staged)
        follower.log(f"wrote {output.name}")
        return {"output": output.name, "detail": _say(metrics)}

    def _load(self, asked: Mapping[str, Any], folder: Path) -> TableModel:
        version = self._registry.resolve(str(asked["model"]), str(asked["version"]))
        return need_table_model(load_run(self._registry, self._registry.source_run(version), folder))

    def _entities(self, model: TableModel, source: str) -> pa.Table:
        # One thread reads the rows in their order.
        with open_tables({"source": source}, self._sources, memory_gb=self._memory_gb, threads=1) as tables:
            for problem in tables.problems.values():
                raise InvalidInput(f"{source}: {problem}")
            return read_entities(model.task, tables["source"])

    def _predict(
        self, task: TaskRecord, model: TableModel, entities: pa.Table, staged: Path, follower: Follower
    ) -> dict[str, float]:
        """Write the predictions of all entities; their metrics, where these come with labels."""
        dataset = None if task.dataset is None else Dataset.parse(task.dataset)
        embeddings = bool((task.settings or {}).get("embeddings"))
        wanted = entities.select(list(columns_of(model.task)))
        watcher = _Watcher(follower, len(entities))
        kept: list[pa.Table] = []
        writer: pq.ParquetWriter | None = None
        staged.parent.mkdir(parents=True, exist_ok=True)
        try:
            for begin, chunk in self._chunks(wanted):
                watcher.done = begin

                def predict(chunk: pa.Table = chunk) -> pa.Table:
                    return model.predict(
                        chunk,
                        sources=self._sources,
                        dataset=dataset,
                        memory_gb=self._memory_gb,
                        embeddings=embeddings,
                        watcher=watcher,
                    )

                found = interruptible(predict, follower.check)
                writer = writer or pq.ParquetWriter(staged, found.schema)
                writer.write_table(found.cast(writer.schema))
                if model.task.label_column in entities.column_names:
                    kept.append(
                        found.select([name for name in ("prediction", "probabilities") if name in found.column_names])
                    )
        finally:
            if writer is not None:
                writer.close()
        follower.progress(stage="writing the output", items_done=len(entities), items_total=len(entities))
        return score(model, entities, pa.concat_tables(kept)) if kept else {}

    def _chunks(self, entities: pa.Table) -> Iterator[tuple[int, pa.Table]]:
        for begin in range(0, len(entities), self._chunk_rows):
            yield begin, entities.slice(begin, self._chunk_rows)


class _Watcher:
    """What a model tells while it predicts, as the task's progress and log."""

    def __init__(self, follower: Follower, total: int) -> None:
        self._follower = follower
        self._total = total
        self.done = 0

    def check(self) -> None:
        """Raises Canceled when somebody asked to stop."""
        self._follower.check()

    def progress(self, stage: str, *, epoch: int | None = None, epochs: int | None = None) -> None:
        """What is being done."""
        self._follower.progress(stage=stage, epoch=epoch, epochs=epochs, items_done=self.done, items_total=self._total)

    def report(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Nothing is learnt here."""

    def log(self, line: str) -> None:
        """A line of the task's log."""
        self._follower.log(line)


def _say(metrics: Mapping[str, float]) -> str | None:
    if not metrics:
        return None
    return "measured on the source's labels: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
