"""Checksums beside what `ralm export` writes, so that `ralm import` takes it as it was written.

The formats of other libraries have none: of a model without these, a byte that was flipped is not known.
"""

import json
from pathlib import Path

from ralm_jax import checksums, json_text
from ralm_jax.errors import UserError

FILE = "ralm_checksums.json"


def write(folder: Path) -> None:
    """Puts them into a folder and those below, of the files that are in each; instead of those there are."""
    for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        files = sorted(file for file in place.iterdir() if file.is_file() and file.name != FILE)
        if files:
            record = {file.name: checksums.crc32(file) for file in files}
            text = json.dumps(checksums.sealed(record), indent=1) + "\n"
            (place / FILE).write_text(text, "utf-8")


def check(folder: Path) -> None:
    """Raises UserError where a folder has them and a file is not as it was written, or is missing."""
    for seal in sorted(folder.rglob(FILE)):
        try:
            record = checksums.unsealed(json_text.parse(seal.read_bytes()))
            for name, checksum in record.items():
                checksums.check(seal.parent / Path(name).name, checksum)
        except (ValueError, OSError) as error:
            said = error if isinstance(error, checksums.DamagedError) else f"{seal}: {error}"
            raise UserError(
                f"{said}: it was exported otherwise; export it again, or remove {seal} to take it as it is"
            ) from None
