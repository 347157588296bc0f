"""What a reader makes of one input: success, the error it declares, or a failure."""

import contextlib
import io
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from hypothesis import strategies as st

from experiments.fuzzing.changes import changed
from ralm_jax.errors import UserError

# Seconds of the processor that an input of 100 KB may take, and characters of what is said of it.
MOST_SECONDS, MOST_SAID = 5.0, 1500


class Target(NamedTuple):
    """A folder of sound files, each of which may come from outside, and how a command reads it.

    `make` gives the files by their names; `read` is called with the folder and the name of the file that is
    another; `declared` are the errors that say what is wrong.
    """

    make: Callable[[], dict[str, bytes]]
    read: Callable[[Path, str], object]
    declared: tuple[type[Exception], ...] = (UserError,)


class Failure(AssertionError):
    """What a reader must not do; `kind` is equal where the cause is."""

    def __init__(self, kind: str, said: str):
        super().__init__(f"{kind}: {said}")
        self.kind = kind


class _TooLong(BaseException):
    """Ends a reader that nothing else would."""


def _end(number: int, frame: Any) -> None:
    raise _TooLong


def outcome(target: Target, folder: Path, name: str, data: bytes) -> str:
    """ "success" or "declared" of a folder in which the file `name` holds `data`; the sound one comes back.

    Raises Failure for anything else: another error, one that is not one line, or too much time.
    """
    file = folder / name
    sound = file.read_bytes()
    began = time.process_time()
    signal.signal(signal.SIGVTALRM, _end)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    try:
        file.write_bytes(data)
        with contextlib.redirect_stderr(io.StringIO()):
            target.read(folder, name)
        found = "success"
    except target.declared as error:
        found = "declared"
        if isinstance(error, UserError) and ("\n" in str(error) or len(str(error)) > MOST_SAID):
            raise Failure(f"not one line, {_place(error)}", repr(str(error))[:300]) from error
    except _TooLong as error:
        raise Failure(f"slow, {_place(error)}", f"{len(data):,} bytes") from error
    except BaseException as error:
        # A library in Rust that panics raises no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        where = _place(error)
        where = str(error)[:60] if where == "nowhere" else where
        raise Failure(f"{type(error).__name__}, {where}", str(error)[:300]) from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        file.write_bytes(sound)
    if (seconds := time.process_time() - began) > MOST_SECONDS:
        raise Failure(f"slow, {name}", f"{seconds:.1f} s for {len(data):,} bytes")
    return found


def _place(error: BaseException) -> str:
    """The last line of ours that an error went through."""
    trace, found = error.__traceback__, "nowhere"
    while trace is not None:
        code = trace.tb_frame.f_code
        if "ralm_jax" in code.co_filename and "/experiments/" not in code.co_filename:
            found = f"{code.co_filename.rpartition('ralm_jax/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def written(target: Target, folder: Path) -> list[str]:
    """Writes the sound files of a target; returns their names, in order."""
    files = target.make()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return sorted(files)


@st.composite
def inputs(draw: st.DrawFn, files: dict[str, bytes]) -> tuple[str, bytes]:
    """(name, content) of a file that is another by a few changes."""
    name = draw(st.sampled_from(sorted(files)))
    random: Random = draw(st.randoms(note_method_calls=False, use_true_random=False))
    data = files[name]
    for _ in range(draw(st.integers(1, 4))):
        data = changed(data, random)
    return name, data
