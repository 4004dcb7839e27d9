"""What a method has to say and to show of a model that is the best so far."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from tuneloop.errors import TuneloopError
from tuneloop.iteration.job import Job
from tuneloop.methods.contract import Canceled, Prepared, Trained, Verdict

T = TypeVar("T")
log = structlog.get_logger(__name__)


def make_report(job: Job, prepared: Prepared, trained: Trained) -> tuple[Verdict | None, Path | None]:
    """The method's verdict, and the folder of its report; None for what it does not give.

    An error of the method here is logged and costs the report, never the model.
    """
    folder = job.work_dir / "report"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    verdict = _try(job, lambda: job.method.verdict(prepared, trained))
    _try(job, lambda: job.method.write_report(prepared, trained, folder))
    return verdict, folder if any(folder.iterdir()) else None


def _try(job: Job, work: Callable[[], T]) -> T | None:
    try:
        return work()
    except (Canceled, TuneloopError):
        raise
    except Exception:
        log.exception("report failed", task_id=job.task_id)
        return None
