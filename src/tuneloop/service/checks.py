"""What must be true before a part starts; each failure is one line that names the fix."""

import fcntl
import os
import tempfile
import time
from pathlib import Path

import psutil

from tuneloop.database import Database
from tuneloop.errors import InvalidInput, Unavailable
from tuneloop.settings import Settings


def check_folder(folder: Path) -> None:
    """Create the data folder and write to it.

    Raises:
        InvalidInput: that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise InvalidInput(f"cannot write to the data folder {folder}: {reason}; set TUNELOOP_DATA_DIR") from None


def migrate(settings: Settings) -> None:
    """Bring the database to the schema of this version.

    Raises:
        InvalidInput: the URL of the database makes no sense.
        Unavailable: the database does not answer, or refuses.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        shown = make_url(settings.url).render_as_string(hide_password=True)
        database = Database(settings.url)
    except (ArgumentError, ImportError) as error:
        raise InvalidInput(f"TUNELOOP_DATABASE_URL cannot be used: {_first_line(error)}") from None
    try:
        database.migrate()
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise Unavailable(f"the database {shown} cannot be used: {_first_line(cause)}") from None
    finally:
        database.dispose()


class FolderLock:
    """Keeps a second `tuneloop up` away from a data folder.

    The parts inherit the descriptor `fd`: while one of them is alive, also after its supervisor was killed, the
    folder stays locked.
    """

    def __init__(self, folder: Path, *, patience_seconds: float = 15.0) -> None:
        """Take the lock; wait for parts of a supervisor that is gone, which are ending.

        Raises:
            InvalidInput: another `tuneloop up` uses the folder.
        """
        self._file = (folder / "up.lock").open("a+")
        self.fd = self._file.fileno()
        deadline = time.monotonic() + patience_seconds
        while not self._try():
            holder = self._holder()
            if holder is not None or time.monotonic() > deadline:
                self._file.close()
                which = f" (process {holder})" if holder else ""
                raise InvalidInput(
                    f"another `tuneloop up`{which} uses the data folder {folder}: stop it, or set TUNELOOP_DATA_DIR"
                )
            time.sleep(0.1)
        self._file.truncate(0)
        me = psutil.Process()
        self._file.write(f"{me.pid} {me.create_time()}\n")
        self._file.flush()

    def release(self) -> None:
        """Give the folder back."""
        self._file.close()

    def _try(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _holder(self) -> int | None:
        """The process that wrote itself into the file, if it is still that process."""
        self._file.seek(0)
        pid, _, started = self._file.read().partition(" ")
        try:
            process = psutil.Process(int(pid))
            same = abs(process.create_time() - float(started)) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except (ValueError, psutil.Error):
            return None
        return int(pid) if same else None


def _first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
