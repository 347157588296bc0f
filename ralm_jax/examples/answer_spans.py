"""Places of answers in passages."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spans(NamedTuple):
    """Where answers stand: passage row, first and last wordpiece of the body (included), int64 [n] each."""

    rows: np.ndarray
    starts: np.ndarray
    stops: np.ndarray


def join(several: Sequence[Spans]) -> Spans:
    """All of them, sorted by row and place, none twice."""
    if not several:
        return Spans(*(np.empty(0, np.int64) for _ in range(3)))
    whole = np.concatenate([np.stack(s, axis=1) for s in several]).astype(np.int64)
    return Spans(*np.unique(whole, axis=0).T)
