"""Vectors of passages that other hosts hold, fetched from there."""

from typing import Any

import numpy as np

from ralm_jax import partition


class FromOwners:
    """Vectors [N,E] of which each host holds a slice, indexed by rows: all hosts ask, equally often.

    Args:
      own: vectors [n,E] of this host.
      rows: of all passages that they are of.
    """

    def __init__(self, own: np.ndarray, rows: range):
        self._own, self._rows = own, rows

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """Rows [...], perhaps of other shapes on other hosts -> float32 [...,E]; 0 for a row below 0."""
        rows = np.asarray(rows)
        count = int(partition.gather_rows(np.array([rows.size])).max())
        # Few sizes, for each is a program.
        padded = np.full(1 << max(0, count - 1).bit_length(), -1, np.int32)
        padded[: rows.size] = rows.reshape(-1)
        asked = partition.gather_rows(padded[None])  # [hosts, n]
        here = (asked >= self._rows.start) & (asked < self._rows.stop)
        found = np.zeros((*asked.shape, self._own.shape[1]), np.float32)
        found[here] = self._own[asked[here] - self._rows.start]
        given = partition.scatter_rows(found)
        return given[: rows.size].reshape(*rows.shape, found.shape[-1])
