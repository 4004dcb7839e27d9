"""A process that ends when the one that started it is gone, however that happened.

The starting process keeps the write end of a pipe, and hands the read end to every part. When it dies, be it by
kill -9, the kernel closes the write end, and each part reads the end of the file. Nothing is ever written.
(`PR_SET_PDEATHSIG` would say the same, but on Linux only, and already when the *thread* that started the part ends;
a part watches its parent's id as well instead.)
"""

import contextlib
import os
import select
import signal
import stat
import threading
import time
import uuid
from collections.abc import Mapping

import psutil

VARIABLE = "TUNELOOP_LIFELINE_FD"
# Names the part in the environment of all that it starts: finds also what left its group and lost its parent.
MARK_VARIABLE = "TUNELOOP_STARTED_BY"


class Lifeline:
    """The holder's side: everything started with `environment` and `fd` ends when this process does."""

    def __init__(self) -> None:
        # Close-on-exec both: the write end must never reach a part, or it would keep its siblings alive.
        self.fd, self._write_fd = os.pipe()

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` plus what one part needs to know of the pipe; start it with `pass_fds=(lifeline.fd,)`."""
        return {**base, VARIABLE: str(self.fd), MARK_VARIABLE: uuid.uuid4().hex}

    def cut(self) -> None:
        """Let go: every process tied to this lifeline ends."""
        os.close(self._write_fd)
        os.close(self.fd)


def hold(*, grace_seconds: float = 3.0, spare: bool = False) -> None:
    """End this process, and whatever it started, once the process that started it is gone.

    Does nothing when it was started without a lifeline, or holds one already. What it started is killed at once,
    unless `spare` says that it sees to that itself; then comes a SIGTERM to itself, and after `grace_seconds` a
    SIGKILL.
    """
    text = os.environ.pop(VARIABLE, "")  # what this process starts has no such descriptor
    if not text.isdecimal():
        return
    fd = int(text)
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return
        os.set_inheritable(fd, False)
    except OSError:  # the variable came along, the descriptor did not: no lifeline
        return
    os.environ.setdefault(MARK_VARIABLE, uuid.uuid4().hex)
    watch = threading.Thread(target=_watch, args=(fd, os.getppid(), grace_seconds, spare), name="lifeline", daemon=True)
    watch.start()


def kill_marked(mark: str, *, group: int | None = None) -> None:
    """Kill every process that carries the mark or is in the process group, but this one."""
    me = os.getpid()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            in_group = group is not None and os.getpgid(process.pid) == group
            if process.pid != me and (in_group or process.environ().get(MARK_VARIABLE) == mark):
                process.kill()


def _watch(fd: int, parent: int, grace_seconds: float, spare: bool) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while os.getppid() == parent and not poller.poll(1000):
        pass
    if not spare:
        _kill_others()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_seconds)
    _kill_others()
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_others() -> None:
    """Kill all that this process started, and all of its group when it leads one."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
    kill_marked(os.environ[MARK_VARIABLE], group=os.getpid() if os.getpgrp() == os.getpid() else None)
