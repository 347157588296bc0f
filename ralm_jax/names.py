"""Names of files that come with data: what they are joined to is not left."""

import os
from pathlib import Path
from typing import Any

from ralm_jax.errors import UserError


def beneath(folder: Path, name: Any, said_by: Path) -> Path:
    """The file or folder `name` in `folder` or below it; nothing is looked up.

    Raises UserError, naming the file that says so, for any other name.
    """
    if isinstance(name, str) and _is_possible(name) and not os.path.isabs(name):
        whole = os.path.normpath(name)
        if whole != os.pardir and not whole.startswith(os.pardir + os.sep):
            return folder / name
    raise UserError(
        f"{said_by} names {name!r:.200}, which is not in {folder}; fetch or make it again"
    )


def _is_possible(name: str) -> bool:
    """Whether file systems can have it at all: others are an error to look for, rather than not there."""
    data = name.encode("utf-8", "surrogatepass")
    return b"\0" not in data and len(data) < 1024 and all(len(p) < 256 for p in data.split(b"/"))
