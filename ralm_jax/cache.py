"""Where lies what can be made again, for whoever opens a run or a corpus changes nothing in it."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ralm_jax.errors import UserError


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


@contextlib.contextmanager
def adding(place: Path) -> Iterator[Path]:
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
