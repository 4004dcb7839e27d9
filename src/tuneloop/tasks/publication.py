"""Putting what a task wrote where it was asked for, once, whatever moment its worker is killed at."""

from pathlib import Path

from tuneloop.relational.outputs import Output
from tuneloop.relational.writing import exists, place, remove, taken, write_file, write_table
from tuneloop.tasks.follower import Follower
from tuneloop.tasks.store import TaskRecord


class Publication:
    """The output of a task.

    A file is written beside its place, `.{name}.{task}.part`. Once that is whole the task's record names the output,
    and only then the part is linked to its place and taken away: from the record and these two names a later try sees
    how far the one before it came. A table of a database is made in one transaction, and its comment names the task.

    Args:
        task: the task, as it stood when the try began.
        output: where to.
        overwrite: whether what is there is replaced.
        follower: of the task.
    """

    def __init__(self, task: TaskRecord, output: Output, *, overwrite: bool, follower: Follower) -> None:
        self._task = task
        self._output = output
        self._overwrite = overwrite
        self._follower = follower
        self._is_file = output.kind in ("parquet", "csv")
        self._mark = f"tuneloop task {task.id}"

    def is_done(self) -> bool:
        """Whether an earlier try put it in its place and was killed before it could say so."""
        if not self._is_file or self._overwrite or self._task.output != self._output.name:
            return False
        if not self._part.exists():
            return True
        if self._path.exists() and self._path.samefile(self._part):
            remove(self._part)
            return True
        return False

    def check(self) -> None:
        """Refuse now what could not be written later. A table of an earlier try is told apart when it is written.

        Raises:
            Conflict: something is there already.
        """
        if not self._overwrite and self._is_file and exists(self._output):
            raise taken(self._output)

    def publish(self, staged: Path) -> None:
        """Put a Parquet file in the output's place, in its format.

        Raises:
            Conflict: something is there already.
        """
        check = self._follower.check
        if not self._is_file:
            write_table(staged, self._output, mark=self._mark, overwrite=self._overwrite, check=check)
            return
        write_file(staged, self._part, self._output, check)
        if self._overwrite:
            self._part.replace(self._path)
            return
        self._follower.found(output=self._output.name)
        place(self._part, self._output)
        remove(self._part)

    def undo(self) -> None:
        """Leave nothing half done of a try that ended badly."""
        if self._is_file:
            remove(self._part)
        self._follower.found(output=None)

    @property
    def _path(self) -> Path:
        assert self._output.path is not None
        return self._output.path

    @property
    def _part(self) -> Path:
        return self._path.with_name(f".{self._path.name}.{self._task.id}.part")
