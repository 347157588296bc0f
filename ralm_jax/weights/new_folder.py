"""A folder that appears whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ralm_jax.errors import UserError


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `out` if that succeeds, and is gone if it does not.

    Raises UserError where `out` exists, and in place of every OSError inside.
    """
    partial = out.parent / f".{out.name}.{os.getpid()}.partial"
    parents: list[Path] = []
    try:
        if out.exists():
            raise UserError(f"{out} exists; choose another --out")
        parents = [parent for parent in out.parents if not parent.exists()]
        partial.mkdir(parents=True)
        yield partial
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in parents:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise UserError(_line(error, out, partial)) from error
        raise


def _line(error: OSError, out: Path, partial: Path) -> str:
    """One line on what could not be read, or not be written."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    file = Path(error.filename or out)
    if file.is_relative_to(partial) or file.is_relative_to(out):
        return f"{out} cannot be written: {reason}"
    return f"{file}: {reason}"
