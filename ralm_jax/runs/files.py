"""Small files of a run, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from ralm_jax.errors import UserError


def write_atomically(path: Path, text: str) -> None:
    """Writes a file by one rename."""
    # Processes of one run may write the same file at once.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """Raises UserError where the file is missing or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); is it the folder of a run?") from error
