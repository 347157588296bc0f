"""One owner trains: a lock on the folder of a run, which ends with the process that took it.

The lock is the operating system's (flock), so a killed process leaves none behind, whatever its
number is used for afterwards. The file names the owner, for the message that another process shows.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Generator
from pathlib import Path

from ralm_jax.errors import UserError

LOCK = ".owner"


@contextlib.contextmanager
def owned(run: Path) -> Generator[None]:
    """Owns a run while the block runs; makes its folder where there is none.

    Raises:
      UserError: another process owns it, or its folder cannot be written or locked.
    """
    there = run.exists()
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = open(run / LOCK, "a+", encoding="utf-8")
    except OSError as error:
        if not there:
            with contextlib.suppress(OSError):
                run.rmdir()
        raise UserError(f"the run directory {run} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError(
                f"{run} is being trained by {owner}; wait for it or choose another folder"
            ) from None
        except OSError as error:
            raise UserError(
                f"{run} cannot be locked ({error.strerror}), and two processes could train there at once; "
                "choose a folder on a disk that has locks"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        # The file stays: to remove it would let two processes lock two files of one name.
        yield


def is_owned(run: Path) -> bool:
    """Whether a process owns a run; where its file system has no locks, one that ever was is."""
    try:
        with open(run / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
