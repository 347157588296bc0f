"""Tables of cells: CSV and TSV with a header, quoted as spreadsheets do; and the bare TSV of MS MARCO."""

import csv
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from ralm_jax.errors import UserError
from ralm_jax.formats.lines import Records, decoded, first_line, lines

_DELIMITERS = "\t,;"


def header(path: Path, known: Collection[str]) -> list[str] | None:
    """The names of the columns, where one of them is among those known; else None."""
    line = first_line(path)
    try:
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter(line)), [])]
    except csv.Error:
        return None
    lower = {name.lower() for name in names} | set(names)
    return names if lower & {name for name in known} else None


def delimiter(line: str) -> str:
    """What separates the cells of a line: a tab where there is one, else a comma or a semicolon."""
    return "\t" if "\t" in line else max(_DELIMITERS, key=line.count)


def table_records(path: Path, names: list[str]) -> Records:
    """The rows below the header, as fields; empty cells are left out.

    Raises UserError, naming the line, where a row has other cells than the header, or a quote is not closed.
    """
    between = delimiter(first_line(path))
    rows = quoted_rows(path, between)
    next(rows, None)
    for where, cells in rows:
        if len(cells) != len(names):
            raise UserError(
                f"{where}: the row has {len(cells)} cells where the header has {len(names)}; a cell with "
                "a separator or a line break in it must stand in quotes"
            )
        yield where, {name: cell for name, cell in zip(names, cells, strict=True) if cell}


def quoted_rows(path: Path, between: str) -> Iterator[tuple[str, list[str]]]:
    """Rows of cells, where each ends; a cell in quotes may hold anything. Blank lines are passed over.

    Raises UserError, naming the line where the cell begins, for quotes that do not end or end too soon.
    """
    # Passages are longer than the 131,072 characters that Python allows a cell.
    csv.field_size_limit(sys.maxsize)
    last = 0

    def read() -> Iterator[str]:
        nonlocal last
        for last, line in lines(path):
            yield decoded(line, f"{path}, line {last}").replace("\0", "").removeprefix("\ufeff")

    begun = 1
    try:
        for cells in csv.reader(read(), delimiter=between, strict=True):
            if any(cell.strip() for cell in cells):
                yield f"{path}, line {begun}", cells
            begun = last + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {begun}: a quote that opens a cell is not closed at its end ({error}); double the "
            "quotes inside a cell, or remove them"
        ) from None


def bare_rows(path: Path, cells: int, expected: str) -> Iterator[tuple[str, list[str]]]:
    """Rows of so many cells separated by tabs, where quotes mean nothing.

    Raises UserError, naming the line, for any other number of cells.
    """
    for number, line in lines(path):
        where = f"{path}, line {number}"
        text = decoded(line, where).replace("\0", "").strip("\ufeff\r\n")
        if not text.strip():
            continue
        found = text.split("\t")
        if len(found) != cells:
            raise UserError(
                f"{where}: found {len(found)} cells; expected {expected}, separated by tabs"
            )
        yield where, found
