"""The models in use: on disk and in memory, each fetched, verified and loaded once."""

import os
import shutil
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path

from tuneloop.errors import Conflict
from tuneloop.ids import new_id
from tuneloop.models.loading import Loaded, load_model
from tuneloop.models.store import StoredModels
from tuneloop.tracking import Tracking

# A download that was not finished after so many seconds was left by a process that died.
ABANDONED_SECONDS = 3600


class ModelCache:
    """Loaded models by the run that stored them; the least recently used ones go when there are more than `capacity`.

    Args:
        tracking: where the models are.
        stored: what their files must be.
        folder: for the downloaded models, a folder of its own.
        capacity: models kept, on disk as in memory.
    """

    def __init__(self, tracking: Tracking, stored: StoredModels, folder: Path, *, capacity: int = 4) -> None:
        self._tracking = tracking
        self._stored = stored
        self._folder = folder
        self._capacity = capacity
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, Future[Loaded]] = OrderedDict()

    def get(self, run_id: str) -> Loaded:
        """The run's model; those who ask while it is loaded wait for it.

        Raises:
            Conflict: the model's files are not those that a Tuneloop run stored, or are of no kind that is served.
            NotFound: the model is gone.
        """
        with self._lock:
            future = self._loaded.get(run_id)
            mine = future is None
            if future is None:
                future = self._loaded[run_id] = Future()
            self._loaded.move_to_end(run_id)
        if mine:
            self._load(run_id, future)
        return future.result()

    def _load(self, run_id: str, future: "Future[Loaded]") -> None:
        try:
            model = load_model(self._verified(run_id))
        except BaseException as error:
            with self._lock:
                self._loaded.pop(run_id, None)
            future.set_exception(error)
            return
        future.set_result(model)
        self._evict()

    def _verified(self, run_id: str) -> Path:
        """The folder of the run's model, all of whose files are what the run stored."""
        folder = self._folder / run_id
        if folder.exists():
            try:
                self._stored.verify(run_id, folder)
                os.utime(folder)
                return folder
            except (Conflict, OSError):  # somebody changed the copy, or half of it is gone: fetch it again
                shutil.rmtree(folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder / f".{new_id()}"
        try:
            self._stored.verify(run_id, self._tracking.download_model(run_id, draft))
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return folder

    def _evict(self) -> None:
        with self._lock:
            loaded = [run_id for run_id, future in self._loaded.items() if future.done()]
            for run_id in loaded[: max(0, len(loaded) - self._capacity)]:
                del self._loaded[run_id]
            in_use = set(self._loaded)
        folders = [path for path in self._folder.iterdir() if path.is_dir()]
        models = [path for path in folders if not path.name.startswith(".") and path.name not in in_use]
        newest = sorted(models, key=lambda path: path.stat().st_mtime, reverse=True)
        for path in newest[max(0, self._capacity - len(in_use)) :]:
            shutil.rmtree(path, ignore_errors=True)
        for path in folders:
            if path.name.startswith(".") and path.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
