"""One process trains in a folder; the lock ends with its owner, however the owner ends."""

import os
import signal
import subprocess
import sys

import pytest

from ralm_jax.errors import UserError
from ralm_jax.runs.lock import LOCK, owned

OWNER = """
import sys, time
from pathlib import Path
from ralm_jax.runs.lock import owned
with owned(Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that owns tmp_path/run."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "owned\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_gets_one_line_that_names_the_first(other, tmp_path):
    with pytest.raises(UserError, match=f"is being trained by process {other.pid} on ") as error:
        with owned(tmp_path / "run"):
            pass
    assert "\n" not in str(error.value)


def test_the_lock_of_a_killed_process_is_taken_over(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    with owned(tmp_path / "run"):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / LOCK).read_text()


def test_a_number_that_is_used_again_is_no_owner(tmp_path):
    """Of a process that lives, but does not have the lock: as if its number had been used again."""
    (tmp_path / LOCK).write_text(f"process {os.getppid()} on here\n")
    with owned(tmp_path):
        pass


def test_it_is_free_again_afterwards(tmp_path):
    for _ in range(2):
        with owned(tmp_path / "run"):
            pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        with owned(tmp_path / "file" / "run"):
            pass
