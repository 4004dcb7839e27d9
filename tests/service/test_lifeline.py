import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from support.service import is_alive, wait_until
from tuneloop.service import lifeline

LOST = f"1003.{os.getpid()}"  # so long sleeps a process that nobody else starts

PART = f"""
import subprocess, sys, time
from tuneloop.service import lifeline
lifeline.hold(grace_seconds=1)
subprocess.Popen(["sleep", "1001"])
subprocess.Popen(["sleep", "1002"], start_new_session=True)
subprocess.Popen(["sh", "-c", "sleep {LOST} & exit"], start_new_session=True).wait()
print("ready", flush=True)
time.sleep(1000)
"""

# Deaf to SIGTERM: only the end of the grace helps.
DEAF_PART = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + PART

HOLDER = """
import os, subprocess, sys, time
from tuneloop.service.lifeline import Lifeline
line = Lifeline()
for part in sys.argv[1:]:
    made = subprocess.Popen([sys.executable, "-c", part], env=line.environment(os.environ), pass_fds=(line.fd,),
                            start_new_session=True, stdout=subprocess.PIPE)
    made.stdout.readline()
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("parts", [[PART], [PART, PART], [DEAF_PART]], ids=["one", "siblings", "deaf"])
def test_parts_and_what_they_started_end_with_a_holder_that_is_killed(parts):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, *parts], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"ready\n"
        family = psutil.Process(holder.pid).children(recursive=True)
        # The grandchild whose parent is gone belongs to nobody; it is found by what it runs.
        lost: list[psutil.Process] = []

        def found() -> bool:  # a shell does not wait for what it starts in the background
            lost[:] = [process for process in psutil.process_iter() if _runs(process, "sleep", LOST)]
            return len(lost) == len(parts)

        wait_until(found, what="the grandchildren")
        assert len(family) == 3 * len(parts)
        holder.kill()
        holder.wait()
        wait_until(lambda: not any(map(is_alive, family + lost)), what="the parts to end")
    finally:
        holder.kill()
        holder.wait()


def test_cutting_the_lifeline_ends_the_part():
    line = lifeline.Lifeline()
    part = subprocess.Popen(
        [sys.executable, "-c", PART], env=line.environment(os.environ), pass_fds=(line.fd,), stdout=subprocess.PIPE
    )
    assert part.stdout.readline() == b"ready\n"
    line.cut()
    assert part.wait(20) == -signal.SIGTERM


@pytest.mark.parametrize("value", [None, "", "nonsense", "999", "0"])
def test_a_process_without_a_lifeline_goes_on(value, tmp_path: Path):
    script = textwrap.dedent("""
        import os, time
        from tuneloop.service import lifeline
        lifeline.hold(grace_seconds=0)
        time.sleep(1.5)
        assert lifeline.VARIABLE not in os.environ
        print("alive")
    """)
    environment = {name: text for name, text in os.environ.items() if name != lifeline.VARIABLE}
    if value is not None:
        environment[lifeline.VARIABLE] = value
    with (tmp_path / "empty").open("w+") as stdin:
        done = subprocess.run([sys.executable, "-c", script], env=environment, stdin=stdin, stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert done.stdout == b"alive\n"


def _runs(process: psutil.Process, *command: str) -> bool:
    try:
        return process.cmdline() == list(command)
    except psutil.Error:
        return False
