"""A directory that is complete or not there: filled under another name, published by one rename.

The other name is that of a folder beside it, `.OUT.PID.partial`. Its owner keeps a lock (flock) on a
file in it, which ends with the process; so whoever writes to the same place next can tell what a
killed process has left from what another is still writing.
"""

import contextlib
import fcntl
import glob
import os
import re
import shutil
from collections.abc import Generator
from pathlib import Path

from ralm_jax.errors import UserError, refusal

_LOCK = ".owner"


@contextlib.contextmanager
def published(out: Path) -> Generator[Path]:
    """A directory to fill; it becomes `out` if that succeeds, and is gone if it does not.

    Raises:
      UserError: `out` exists, or there was an OSError in the block: one that names a file elsewhere is
        taken for an error of reading it, any other for one of writing.
    """
    partial = out.parent / f".{out.name}.{os.getpid()}.partial"
    missing: list[Path] = []
    try:
        if os.path.lexists(out):
            raise UserError(f"{out} exists; remove it or give another --out")
        missing = [folder for folder in out.parents if not folder.exists()]
        _sweep(out)
        partial.mkdir(parents=True)
        with (partial / _LOCK).open("wb") as lock:
            # A file system without locks must not keep anybody from writing to it.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            content = partial / "content"
            content.mkdir()
            yield content
            os.rename(content, out)
    except BrokenPipeError:
        # Nobody reads what is printed any more, which has nothing to do with `out`.
        raise
    except OSError as error:
        raise UserError(_line(error, out, partial)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        # Folders above `out` that were made for it; one with anything in it is not removed.
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _line(error: OSError, out: Path, partial: Path) -> str:
    """One line on what could not be written, or not be read."""
    reason = refusal(error, partial)
    file = Path(os.fsdecode(error.filename or out))
    if file.is_relative_to(out) or file.is_relative_to(partial) or partial.is_relative_to(file):
        return f"{out} cannot be written: {reason}"
    return f"{file}: {reason}"


def _sweep(out: Path) -> None:
    """Removes the partial folders of `out` whose owners are dead."""
    for partial in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
        found = re.fullmatch(rf"\.{re.escape(out.name)}\.(\d{{1,9}})\.partial", partial.name)
        if found and not _has_owner(partial, int(found[1])):
            shutil.rmtree(partial, ignore_errors=True)


def _has_owner(partial: Path, process: int) -> bool:
    try:
        with (partial / _LOCK).open("rb+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        # The owner is about to lock it, or an earlier version wrote it, which had no locks.
        return _is_running(process)
    except OSError:
        return True


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
