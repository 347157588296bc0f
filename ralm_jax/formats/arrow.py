"""Columns on disk: Parquet, Arrow, and the folders that the `datasets` library saves."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from ralm_jax import json_text
from ralm_jax.errors import UserError
from ralm_jax.formats.lines import Records, begins_with
from ralm_jax.names import beneath

PARQUET, ARROW = b"PAR1", b"ARROW1"
# What `save_to_disk` leaves: of a data set, and of several splits.
STATE, SPLITS = "state.json", "dataset_dict.json"
_ROWS = 1024
# A column of bits has 8; one of nulls takes no bytes, and a damaged header may claim any number of them.
_VALUES_A_BYTE = 64


def is_columnar(path: Path) -> bool:
    return begins_with(path).startswith((PARQUET, ARROW)) or path.suffix == ".arrow"


def is_parquet(path: Path) -> bool:
    return begins_with(path).startswith(PARQUET)


def column_records(path: Path) -> Records:
    """The rows of a Parquet or an Arrow file, as fields.

    Raises UserError where the file is damaged.
    """
    number = 0
    try:
        for batch in _batches(path):
            # Of damaged data Arrow reads what lies beyond it.
            batch.validate(full=True)
            longest = max(map(_longest, [batch, *batch.columns]))
            if longest > _VALUES_A_BYTE * batch.get_total_buffer_size():
                raise ValueError(f"{longest:,} values in fewer bytes than they take")
            for start in range(0, batch.num_rows, _ROWS):
                for row in batch.slice(start, _ROWS).to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError, SystemError) as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f"{path}, after row {number}: cannot be read ({said}); download or write it again"
        ) from None


def _longest(column: Any) -> int:
    """How many values a column has, or what it nests."""
    nested = []
    if isinstance(column, pyarrow.StructArray):
        nested = column.flatten()
    elif isinstance(
        column, pyarrow.ListArray | pyarrow.LargeListArray | pyarrow.FixedSizeListArray
    ):
        nested = [column.values]
    return max([len(column), *map(_longest, nested)])


def _batches(path: Path) -> Iterator[Any]:
    start = begins_with(path)
    if start.startswith(PARQUET):
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(_ROWS)
        return
    with pyarrow.memory_map(str(path)) as data:
        if start.startswith(ARROW):
            file = pyarrow.ipc.open_file(data)
            yield from (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            # `datasets` writes streams, whose batches are short.
            yield from pyarrow.ipc.open_stream(data)


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` made a folder."""
    return os.path.isfile(folder / STATE) or os.path.isfile(folder / SPLITS)


def saved_files(folder: Path, wanted: str | None = None) -> list[Path]:
    """The files of a folder that `datasets` saved, in order; of one split, where it has several.

    Raises UserError where it has several and none is the one wanted or called train, or a file is missing.
    """
    if os.path.isfile(folder / SPLITS):
        names = [str(name) for name in _list(_read(folder / SPLITS).get("splits"))]
        name = wanted if wanted in names else "train" if "train" in names else None
        if name is None and len(names) != 1:
            raise UserError(
                f"{folder} holds the splits {', '.join(names) or '(none)'}; give the folder of one of them"
            )
        folder = beneath(folder, name or names[0], folder / SPLITS)
    entries = _list(_read(folder / STATE).get("_data_files"))
    try:
        files = [beneath(folder, entry["filename"], folder / STATE) for entry in entries]
    except (TypeError, KeyError):
        raise UserError(
            f"{folder / STATE} names no files of data; save the data set again"
        ) from None
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        lacking = missing[0].name if missing else "any file of data"
        raise UserError(
            f"{folder}: {STATE} names {lacking}, which is not there; copy the folder whole"
        )
    return files


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json_text.parse(file.read_text("utf-8"))
    except OSError:
        raise UserError(f"{file.parent}: there is no {file.name}; copy the folder whole") from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{file}: invalid JSON; save the data set again")
    return found


def _list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []
