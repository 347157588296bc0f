"""Vectors that training steps made for their gradient, newer than those of the index: write-back.

They cost nothing, for the step has to embed its candidates anyhow, and those are the passages that are
retrieved often. The index itself stays as it is: it is searched for more neighbours than are wanted, and
those that have a newer vector are scored by that.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ralm_jax.lexical.mix import Rows
from ralm_jax.retrieval.searcher import Found

# Of a place that holds nothing.
NONE = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Newest:
    """The vectors [N,E] of an index with those that are newer in their places; indexed by rows.

    Attributes:
      made: rows [n] -> the steps of the parameters that made their vectors in the index.
    """

    vectors: Rows
    written: "Written"
    made: Callable[[np.ndarray], np.ndarray]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        found = np.array(self.vectors[rows])
        newer, vectors = self.written.newer(rows, self.made(rows))
        found[newer] = vectors
        return found


class Written:
    """The newest vectors of passages that were candidates lately.

    Args:
      most: passages that have one; the passage that came first makes room for another.
      shape: (N, E).
    """

    def __init__(self, most: int, shape: tuple[int, int]):
        most = min(most, shape[0])
        self._rows = np.full(most, NONE, np.int32)
        self._steps = np.zeros(most, np.int32)
        self._vectors = np.zeros((most, shape[1]), np.float32)
        self._next = 0
        # Where in these the vector of a passage is.
        self._place = np.full(shape[0], NONE, np.int32)

    def add(self, step: int, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Keeps vectors [n,E] of passages [n], made by the parameters before `step`; a row below 0 is none.

        Of the vectors of one passage the last stays.
        """
        rows, last = np.unique(rows[::-1], return_index=True)
        vectors, rows = vectors[::-1][last][rows >= 0], rows[rows >= 0]
        known = self._place[rows] != NONE
        places = self._place[rows[known]]
        self._vectors[places], self._steps[places] = vectors[known], step
        # The others take the next places, and whoever stood there goes.
        rows, vectors = rows[~known][: len(self._rows)], vectors[~known][: len(self._rows)]
        places = (self._next + np.arange(len(rows))) % len(self._rows)
        gone = self._rows[places]
        self._place[gone[gone != NONE]] = NONE
        self._rows[places], self._steps[places], self._vectors[places] = rows, step, vectors
        self._place[rows] = places
        self._next = int((self._next + len(rows)) % len(self._rows))

    def steps(self, rows: np.ndarray, made: np.ndarray) -> np.ndarray:
        """Steps of the newest vectors of passages [...], which the index has of steps `made` [...]."""
        places = self._place[np.maximum(rows, 0)]
        there = (rows >= 0) & (places != NONE)
        return np.where(there, np.maximum(self._steps[places], made), made)

    def rescore(self, queries: np.ndarray, found: Found, made: np.ndarray, k: int) -> Found:
        """The best k of the passages found, those with newer vectors scored by them.

        Args:
          queries: [B,E] float32.
          found: ids and scores [B,n] of the index, n >= k.
          made: steps [B,n] of the vectors that made these scores.

        Returns:
          ids [B,k] and scores [B,k], best first; equal scores stay in the order in which they were found.
        """
        ids, scores = found
        newer, vectors = self.newer(ids, made)
        query, _ = np.nonzero(newer)
        scores = scores.copy()
        scores[newer] = np.einsum("ne,ne->n", queries[query], vectors)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def newer(self, rows: np.ndarray, made: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which passages [...] have vectors newer than steps `made` [...], and these vectors [n,E]."""
        places = self._place[np.maximum(rows, 0)]
        newer = (rows >= 0) & (places != NONE) & (self._steps[places] > made)
        return newer, self._vectors[places[newer]]

    def get_state(self) -> dict[str, Any]:
        """Always of the same shapes."""
        return {
            "rows": self._rows.copy(),
            "steps": self._steps.copy(),
            "vectors": self._vectors.copy(),
            "next": np.array([self._next], np.int32),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._rows, self._steps, self._vectors = (
            np.array(state[name]) for name in ("rows", "steps", "vectors")
        )
        self._next = int(state["next"][0])
        self._place[:] = NONE
        there = self._rows != NONE
        self._place[self._rows[there]] = np.flatnonzero(there)
