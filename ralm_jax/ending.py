"""How a command ends: its exit code, and the one line on stderr that says why."""

import errno
import os
import sys
from collections.abc import Callable

from ralm_jax.errors import UserError
from ralm_jax.signals import Terminated
from ralm_jax.terminal import printable

# What the machine refuses, whichever file it is: room, rights, a name, one more open file.
_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE, errno.EACCES),
    *(errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE),
}
_MEMORY = "there is not enough memory for this; free some, or give it less at once"


def exit_code(command: Callable[[], None]) -> int:
    """Runs a command: 0 when done, 2 for what the user or the machine is at fault for, 130 for Ctrl-C, 143
    for SIGTERM. Whatever else is raised is a fault of the program, and is passed on."""
    try:
        command()
        sys.stdout.flush()
        return 0
    except UserError as error:
        # Gin adds a line about the call.
        return _say(2, str(error).splitlines()[0])
    except KeyboardInterrupt:
        return _say(130, "interrupted")
    except Terminated:
        return _say(143, "terminated")
    except MemoryError:
        return _say(2, _MEMORY)
    # Whoever read the output has read enough.
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as caught:
        # Gin puts one of its own around what a function raises, without the number.
        around = caught.__context__
        error = around if caught.errno is None and isinstance(around, OSError) else caught
        if error.errno not in _MACHINE:
            raise
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        return _say(2, f"{where}{error.strerror}")


def _say(code: int, line: str) -> int:
    print(printable(f"ralm: {line}"), file=sys.stderr)
    return code
