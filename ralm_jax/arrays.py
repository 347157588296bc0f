"""Arrays on disk: what a header claims is compared with the file before anything is made of it."""

import math
import mmap
import os
import threading
import tokenize
from pathlib import Path
from typing import IO

import numpy as np

from ralm_jax.errors import UserError

# A header is a Python literal. Where threads parse at once, CPython 3.11 miscounts its depth: a SystemError.
_ONE_PARSES = threading.Lock()
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def header(opened: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is by columns, and kind of the array of a .npy file, which is read up to its data.

    Raises ValueError where that is no header.
    """
    read = _HEADERS.get(np.lib.format.read_magic(opened))
    if read is None:
        raise ValueError("its header has a format that is not read here")
    try:
        with _ONE_PARSES:
            return read(opened)
    # What its parsers raise beside that of text which is no literal, or no name of a kind.
    except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError(f"its header is none ({type(error).__name__})") from None


def mapped(file: str | os.PathLike) -> np.ndarray:
    """The array of a .npy file, mapped to read.

    Raises ValueError where its header is none, or is of objects, or says another size than the file has;
    EOFError and OSError where it cannot be read.
    """
    with open(file, "rb") as opened:
        shape, by_columns, dtype = header(opened)
        begin = opened.tell()
        said = begin + dtype.itemsize * math.prod(shape)
    size = Path(file).stat().st_size
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"its header says {dtype}{list(shape)}, which are no numbers")
    if size != said:
        raise ValueError(f"it has {size:,} bytes, and its header says {said:,}")
    order = "F" if by_columns else "C"
    return np.memmap(file, dtype, "r", offset=begin, shape=shape, order=order)


def require_whole(*arrays: np.ndarray) -> None:
    """Raises UserError where the file of a mapped array has been cut short since it was opened.

    To read there is a bus error, which ends the process without a word; or gives zeros, behind the last byte.
    """
    for array in arrays:
        opened = array.base
        if isinstance(opened, mmap.mmap) and opened.size() < len(opened):
            name = getattr(array, "filename", None) or "a mapped file"
            raise UserError(f"{name} was cut short while it was in use; restore it from a copy")
