"""Where `--json` says that the figures of a verb go."""

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TextIO

from ralm_jax.errors import UserError

STDOUT = "-"
# A verb hands its figures over to one of these; there are none where training was stopped.
Write = Callable[[Any], None]


@contextlib.contextmanager
def figures(file: str | None) -> Generator[Write]:
    """What writes figures to a file, or to nothing.

    With "-" they have standard output to themselves: what a person reads goes to standard error.
    """
    stdout = sys.stdout
    alone = contextlib.redirect_stdout(sys.stderr) if file == STDOUT else contextlib.nullcontext()
    with alone:
        yield functools.partial(_write, file, stdout)


def check_folder(file: str | None) -> None:
    """What is measured for an hour must not be lost for want of a folder to write it to."""
    if file and Path(file).is_dir():
        raise UserError(f"{file} cannot be written: it is a folder; give a file")
    if file and file != STDOUT and not Path(file).absolute().parent.is_dir():
        raise UserError(
            f"{file} cannot be written: there is no folder {Path(file).parent}; make it"
        )


def _write(file: str | None, stdout: TextIO, report: Any) -> None:
    if file is None or report is None:
        return
    text = json.dumps(report, indent=1) + "\n"
    if file == STDOUT:
        stdout.write(text)
        return
    try:
        Path(file).write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
