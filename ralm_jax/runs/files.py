"""Small files of a run, written whole or not at all, and known to be as they were written."""

import json
import os
from pathlib import Path
from typing import Any

from ralm_jax import json_text
from ralm_jax.checksums import DamagedError, sealed, unsealed
from ralm_jax.errors import UserError


def write_atomically(path: Path, text: str) -> None:
    """Writes a file by one rename."""
    # Processes of one run may write the same file at once.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes an object, with a checksum among its fields."""
    write_atomically(path, json.dumps(sealed(record), indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object, without its checksum. Raises UserError where the file is missing or damaged."""
    try:
        return unsealed(json_text.parse(path.read_text("utf-8")))
    except DamagedError as error:
        raise damaged(path, str(error)) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); is it the folder of a run?") from error


def damaged(path: Path, why: str = "it is not as it was written") -> UserError:
    return UserError(f"{path} is damaged ({why}); restore it from a copy")
