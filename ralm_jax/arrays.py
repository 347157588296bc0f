"""Arrays on disk: what a header claims is compared with the file before anything is made of it."""

import math
import os
from pathlib import Path

import numpy as np

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def mapped(file: str | os.PathLike) -> np.ndarray:
    """The array of a .npy file, mapped to read.

    Raises ValueError where its header is none, or is of objects, or says another size than the file has;
    EOFError and OSError where it cannot be read.
    """
    with open(file, "rb") as opened:
        header = _HEADERS.get(np.lib.format.read_magic(opened))
        if header is None:
            raise ValueError("its header has a format that is not read here")
        shape, _, dtype = header(opened)
        said = opened.tell() + dtype.itemsize * math.prod(shape)
    size = Path(file).stat().st_size
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"its header says {dtype}{list(shape)}, which are no numbers")
    if size != said:
        raise ValueError(f"it has {size:,} bytes, and its header says {said:,}")
    return np.load(file, mmap_mode="r")
