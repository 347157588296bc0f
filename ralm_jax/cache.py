"""Where lies what can be made again, for whoever opens a run or a corpus changes nothing in it."""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path

from ralm_jax.errors import UserError

# Where JAX looks for the folder of compiled programs, and how many bytes of them are kept.
PROGRAMS, MOST_PROGRAMS = "JAX_COMPILATION_CACHE_DIR", 1 << 30


def folder() -> Path:
    """RALM_CACHE, or ralm_jax/vectors in the user's own cache folder.

    Raises UserError where neither is known: in a container a user may have no home.
    """
    if given := os.environ.get("RALM_CACHE"):
        return Path(given)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise UserError(
            "there is no home folder to keep vectors in; set RALM_CACHE to a folder for them"
        ) from None
    return Path(base) / "ralm_jax" / "vectors"


def keep_programs() -> None:
    """Has JAX keep what it compiles, so that the next process, or the same command again, begins sooner.

    By the environment, which the processes that are started inherit: to be called before JAX is imported.
    JAX_COMPILATION_CACHE_DIR names another folder than `compiled` among the vectors, or none if it is empty.
    Programs are code: none are kept in a cache of another user, or that everybody may write to.
    """
    if PROGRAMS in os.environ:
        return
    with contextlib.suppress(OSError, UserError):
        place = folder() / "compiled"
        above = next(each for each in (place, *place.parents) if each.exists())
        if os.access(above, os.W_OK) and _private(above):
            _drop_oldest(place)
            os.environ[PROGRAMS] = str(place)


def _private(place: Path) -> bool:
    """Whether a folder is the user's own, and not everybody's to write to."""
    about = place.stat()
    return os.name != "posix" or (about.st_uid == os.getuid() and not about.st_mode & stat.S_IWOTH)


def _drop_oldest(place: Path) -> None:
    """Removes programs that have been there for longest, until the others take MOST_PROGRAMS at most."""
    files = sorted(((x.stat().st_mtime, x) for x in place.glob("*-cache")), reverse=True)
    kept = 0
    for _, file in files:
        kept += file.stat().st_size
        if kept > MOST_PROGRAMS:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def adding(place: Path) -> Generator[Path]:
    """A folder to write to, which becomes `place` by one rename once it is whole.

    Processes that make the same do no harm: the first has it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=place.parent, prefix=".writing_"))
    try:
        yield partial
        with contextlib.suppress(OSError):
            partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
