"""Work on a task that learns from tables: its examples, its search, its report, its end."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from tuneloop.errors import InvalidInput, TuneloopError
from tuneloop.iteration.job import Durable
from tuneloop.models.store import StoredModels
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.fitter import Fitter, make_learners
from tuneloop.relational.folds import read_folds
from tuneloop.relational.learner import Options, learners_for
from tuneloop.relational.making import materialise
from tuneloop.relational.model import opened, task_of
from tuneloop.relational.opening import open_tables
from tuneloop.relational.search import Search, Tried
from tuneloop.relational.settings import RelationalSettings
from tuneloop.relational.sources import Sources
from tuneloop.relational.uploads import Uploads
from tuneloop.settings import Settings
from tuneloop.tasks.attempt import ending
from tuneloop.tasks.fitting import Fitting, end_interrupted
from tuneloop.tasks.follower import Follower
from tuneloop.tasks.store import TaskRecord, TaskStore
from tuneloop.tracking import Tracking

log = structlog.get_logger(__name__)
CHUNK = 1 << 20


class Relational:
    """Does tasks of the kind `relational`."""

    def __init__(
        self, settings: Settings, *, store: TaskStore, stored: StoredModels, sources: Sources, worker_id: str
    ) -> None:
        self._uploads = Uploads(settings.uploads_dir)
        self._settings = settings
        self._store = store
        self._stored = stored
        self._sources = sources
        self._work_dir = settings.work_dir / worker_id

    def work(self, task: TaskRecord, durable: Durable) -> None:
        """Do an attempt at a task, or go on with it; whatever happens ends up in the task's record."""
        folder = self._work_dir / task.id
        with Follower(self._store, task.id, task.attempt) as follower:
            end = ending(task.id, lambda: self._attempt(task, follower, durable, folder))
            follower.log(f"{end['status']}: {end['detail']}" if end.get("detail") else str(end["status"]))
        shutil.rmtree(folder, ignore_errors=True)
        if end["status"] != "done":
            self._end_interrupted(task, retry_seconds=2)
        self._store.update(task.id, task.attempt, **end)
        log.info("task ended", task_id=task.id, **end)
        if end["status"] != "done":  # for certain, however long MLflow is away
            retry_seconds = self._settings.mlflow_retry_seconds
            durable("end interrupted runs", lambda: self._end_interrupted(task, retry_seconds=retry_seconds))

    def _attempt(self, task: TaskRecord, follower: Follower, durable: Durable, folder: Path) -> dict[str, Any]:
        settings = RelationalSettings(**(task.settings or {}))
        dataset = Dataset.parse(task.dataset)
        if task_of(dataset).template is not None:
            follower.progress(stage="making examples")
            dataset = Dataset.parse(durable("examples", lambda: self._with_examples(dataset, folder)))
        found = learners_for(dataset)
        if settings.learners is not None:
            missing = [name for name in settings.learners if name not in found]
            if missing:
                raise InvalidInput(
                    f"{', '.join(missing)} cannot learn {task_of(dataset).task_type} here: install tuneloop[tables,gnn]"
                )
            found = {name: found[name] for name in settings.learners}
        retry_seconds = self._settings.mlflow_retry_seconds
        tracking = Tracking(self._settings.tracking_uri, retry_seconds=retry_seconds, check=follower.check)
        experiment_id = durable("experiment", lambda: tracking.open_experiment(dataset.experiment))
        follower.found(experiment_id=experiment_id)
        follower.progress(stage="reading tables")
        with opened(dataset, self._sources, memory_gb=self._settings.table_memory_gb, splits=True) as (data, _):
            folds = read_folds(dataset, data)
            follower.log(
                f"{dataset.experiment}: {len(folds.train):,} examples to learn from, {len(folds.validation):,} to"
                f" choose by, {len(folds.test) if folds.test is not None else 0:,} to test with"
            )
            options = Options(hops=settings.hops, text_model=settings.text_model)
            learners = make_learners(dataset, data, folds, found, seed=settings.seed, work_dir=folder, options=options)
            fitter = Fitter(dataset, data, folds, learners, seed=settings.seed)
            search = Search(learners, maximise=task_of(dataset).maximise, seed=settings.seed)
            fitting = Fitting(
                task_id=task.id,
                attempt=task.attempt,
                dataset=dataset,
                settings=settings,
                folds=folds,
                fitter=fitter,
                search=search,
                experiment_id=experiment_id,
                tracking=tracking,
                stored=self._stored,
                follower=follower,
                durable=durable,
                work_dir=folder,
            )
            best, tried = fitting.run()
            fitting.report(best, tried)
        follower.progress(stage="done", runs_done=len(tried), runs_total=len(tried))
        follower.found(best_run_id=best.run_id)
        return {"best_run_id": best.run_id, "detail": _verdict(dataset, best)}

    def _with_examples(self, dataset: Dataset, folder: Path) -> dict[str, Any]:
        """The dataset's document with the examples that its template makes, kept as what clients send is kept."""
        made_in = folder / "examples"
        shutil.rmtree(made_in, ignore_errors=True)
        wanted = {table.name: table.source for table in dataset.tables}
        with open_tables(wanted, self._sources, memory_gb=self._settings.table_memory_gb) as data:
            for name, problem in data.problems.items():
                raise InvalidInput(f"{name}: {problem}")
            made = materialise(dataset, data, made_in)

        def keep(source: str) -> str:
            path = Path(source)
            if not path.is_relative_to(made_in):
                return source
            with path.open("rb") as file:
                return self._uploads.receive(iter(partial(file.read, CHUNK), b""), path.name)

        return made.map_sources(keep).document()

    def _end_interrupted(self, task: TaskRecord, *, retry_seconds: float) -> None:
        experiment_id = self._store.get(task.id).experiment_id
        if experiment_id is None:
            return
        try:
            end_interrupted(Tracking(self._settings.tracking_uri, retry_seconds=retry_seconds), experiment_id, task.id)
        except TuneloopError as error:
            log.warning("runs may still show as running in MLflow", task_id=task.id, reason=error.detail)


def _verdict(dataset: Dataset, best: Tried) -> str:
    """How good the best model is, in words."""
    metric = task_of(dataset).evaluation_metric
    words = f"{best.learner}: {metric} {best.metrics[metric]:.4g} on validation"
    test = best.metrics.get(f"test_{metric}")
    return words if test is None else f"{words}, {test:.4g} on test (fitted on train and validation)"
