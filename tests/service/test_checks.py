import subprocess
import sys
from pathlib import Path

import pytest

from support.service import free_ports
from tuneloop.errors import InvalidInput, Unavailable
from tuneloop.service import checks
from tuneloop.settings import Settings

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from tuneloop.service.checks import FolderLock
lock = FolderLock(Path(sys.argv[1]))
# a part that lives on for a while after its supervisor was killed
subprocess.Popen(["sleep", "2"], pass_fds=(lock.fd,), stdout=subprocess.DEVNULL)
print("locked", flush=True)
time.sleep(1000)
"""


def test_only_the_loopback_address_needs_no_key():
    for host in ("127.0.0.1", "127.1.2.3", "localhost", "::1"):
        Settings(host=host).check_exposure()
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(InvalidInput, match="TUNELOOP_API_KEYS"):
            Settings(host=host).check_exposure()
        Settings(host=host, api_keys="me:admin:secret").check_exposure()


def test_the_data_folder_is_made_with_its_parents(tmp_path: Path):
    checks.check_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("in the way")
    places = [file, file / "below"]
    if sys.platform == "linux":
        places.append(Path("/proc/tuneloop-data"))  # nobody makes folders there, not even root
    for place in places:
        with pytest.raises(InvalidInput, match="TUNELOOP_DATA_DIR") as caught:
            checks.check_folder(place)
        assert str(place) in caught.value.detail
        assert "\n" not in caught.value.detail
    assert file.read_text() == "in the way"


def test_a_folder_is_locked_once(tmp_path: Path):
    lock = checks.FolderLock(tmp_path)
    with pytest.raises(InvalidInput, match=r"another `tuneloop up` \(process \d+\) uses"):
        checks.FolderLock(tmp_path)
    lock.release()
    checks.FolderLock(tmp_path).release()


def test_a_lock_waits_for_the_parts_of_a_killed_supervisor(tmp_path: Path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"locked\n"
    with pytest.raises(InvalidInput, match=f"process {holder.pid}"):
        checks.FolderLock(tmp_path)
    holder.kill()
    holder.wait()
    with pytest.raises(InvalidInput, match="another"):
        checks.FolderLock(tmp_path, patience_seconds=0)
    checks.FolderLock(tmp_path).release()


def test_a_database_that_does_not_answer_is_one_line_without_its_password(tmp_path: Path):
    (port,) = free_ports(1)
    url = f"postgresql://me:s3cret@127.0.0.1:{port}/tuneloop"
    with pytest.raises(Unavailable) as caught:
        checks.migrate(Settings(data_dir=tmp_path, database_url=url))
    assert f"127.0.0.1:{port}" in caught.value.detail
    assert "s3cret" not in caught.value.detail
    assert "\n" not in caught.value.detail


def test_a_database_url_that_makes_no_sense_is_named(tmp_path: Path):
    for url in ("nonsense", "nosuchdb://x/y"):
        with pytest.raises(InvalidInput, match="TUNELOOP_DATABASE_URL"):
            checks.migrate(Settings(data_dir=tmp_path, database_url=url))
