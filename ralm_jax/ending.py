"""How a command ends: its exit code, and the one line on stderr that says why."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable

from ralm_jax.errors import UserError, one_line, refusal
from ralm_jax.signals import Terminated
from ralm_jax.terminal import printable, silence

# What the machine refuses, whichever file it is: room, rights, a name, one more open file.
_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE, errno.EACCES),
    *(errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE),
}
_MEMORY = "there is not enough memory for this; free some, or give it less at once"


def exit_code(command: Callable[[], None]) -> int:
    """Runs a command: 0 when done, 2 for what the user or the machine is at fault for, 130 for Ctrl-C, 143
    for SIGTERM, 129 for SIGHUP. Whatever else is raised is a fault of the program, and is passed on."""
    try:
        command()
        sys.stdout.flush()
        return 0
    except UserError as error:
        return _say(2, one_line(error))
    except KeyboardInterrupt:
        return _say(130, "interrupted")
    except Terminated as ended:
        said = "the terminal was closed" if ended.number == signal.SIGHUP else "terminated"
        return _say(128 + ended.number, said)
    except MemoryError:
        return _say(2, _MEMORY)
    # Whoever read the output has read enough.
    except BrokenPipeError:
        silence(sys.stdout)
        return 0
    except OSError as caught:
        # Gin puts one of its own around what a function raises, without the number.
        around = caught.__context__
        error = around if caught.errno is None and isinstance(around, OSError) else caught
        if error.errno not in _MACHINE:
            raise
        name = error.filename
        where = f"{os.fsdecode(name)}: " if name is not None else ""
        return _say(2, f"{where}{refusal(error, os.fsdecode(name or '.'))}")
    except Exception:
        if said := _no_device():
            return _say(2, said)
        raise


def _say(code: int, line: str) -> int:
    # The code says as much where a line cannot be written, to a terminal that is closed or a full disk.
    with contextlib.suppress(OSError):
        print(printable(f"ralm: {line}"), file=sys.stderr, flush=True)
    return code


def _no_device() -> str | None:
    """What is wrong with the devices asked for; None where JAX starts, or none were asked for.

    JAX is started by whatever needs it first, libraries too, and each has its own error.
    """
    jax = sys.modules.get("jax")
    if jax is None or not os.environ.get("JAX_PLATFORMS"):
        return None
    try:
        jax.devices()
    except Exception as error:
        return does_not_start(error)
    return None


def does_not_start(error: Exception) -> str:
    """One line for what JAX raises where it finds no device that it may use."""
    said = " ".join(str(error).split()) or type(error).__name__
    platforms = os.environ.get("JAX_PLATFORMS")
    asked = f" with JAX_PLATFORMS={platforms}" if platforms else ""
    return f"JAX does not start{asked} ({said:.200}); JAX_PLATFORMS=cpu runs without devices"
