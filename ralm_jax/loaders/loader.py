"""Where the batches of a task come from; see `retrieval_loader` for those that an index is searched for.

A batch is a pure function of (seed, step) and, for retrieval, of the index.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ralm_jax import partition
from ralm_jax.data.corpus import Corpus
from ralm_jax.examples import cloze_batches
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval.searcher import Published

# {"retriever": ..., "reader": ...}, nested mappings of arrays.
Params = Any


@dataclasses.dataclass(frozen=True)
class Source:
    """What a stage draws its batches from.

    Attributes:
      corpus: that is retrieved from, Z.
      asked: whose sentences are asked, X; it may be the same.
      rows: of `asked`, or of the questions: what may be asked.
      batch: queries a step, over all devices.
      index_root: folder of the versions of the index that one process alone makes.
      runs: that may have vectors of the first index already.
      before: how many processes made the checkpoint that is gone on from; 0: as many as there are.
      indexed: the run whose indexing jobs embed its snapshots; None where training does.
      say: shows a line to a person.
    """

    corpus: Corpus
    asked: Corpus
    model: Ralm | OpenQA
    rows: np.ndarray
    seed: int
    batch: int
    index_root: Path
    runs: Sequence[Path | None] = ()
    before: int = 0
    indexed: Path | None = None
    say: Callable[[str], object] = lambda line: None


class Loader(Protocol):
    """Call `start` or `set_state`, then for each step: `batch(step)`, `prefetch(params, step + 1)`."""

    def start(self, params: Params) -> Published | None:
        """Makes ready for step 0."""
        ...

    def prefetch(self, params: Params, step: int) -> Published | None:
        """Queues the device work that batch `step` needs, and this step's share of refreshing."""
        ...

    def retrieve(self) -> None:
        """Waits for what was searched; apart from `batch` so that it can be timed."""
        ...

    def batch(self, step: int) -> Any:
        """This process's rows of the batch, [b, ...]."""
        ...

    def staleness(self) -> dict[str, float]:
        """How many steps old the vectors were by which the last batch was found; empty without an index."""
        ...

    def write_back(self, step: int, rows: Any, vectors: Any) -> None:
        """Takes vectors [n,E] of passages [n] that the step from `step` on made for their gradient."""
        ...

    def get_state(self, params: Params) -> dict:
        """What a checkpoint must hold for the run to go on exactly; always of the same shapes."""
        ...

    def set_state(self, state: dict, step: int) -> None:
        """As after `prefetch(..., step)` in the run that `state` comes from."""
        ...

    def checkpointed(self) -> None:
        """A checkpoint has been made that relies on the index as it is."""
        ...

    def close(self) -> None: ...


class ClozeLoader:
    """Pairs for inverse cloze: nothing is retrieved, nothing need be kept."""

    def __init__(self, source: Source, pairs: Callable[..., Any]):
        """pairs: (corpus, rows, positions, seed) -> batch."""
        self._source, self._pairs = source, pairs

    def start(self, params: Params) -> None:
        return None

    def prefetch(self, params: Params, step: int) -> None:
        return None

    def retrieve(self) -> None:
        return None

    def batch(self, step: int) -> Any:
        return self._pairs(self._source.asked, *drawn_rows(self._source, step), self._source.seed)

    def staleness(self) -> dict[str, float]:
        return {}

    def write_back(self, step: int, rows: Any, vectors: Any) -> None:
        return None

    def get_state(self, params: Params) -> dict:
        return {}

    def set_state(self, state: dict, step: int) -> None:
        return None

    def checkpointed(self) -> None:
        return None

    def close(self) -> None:
        return None


def drawn_rows(source: Source, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and positions in the order of a step that fall to this process, [b] each.

    Raises UserError where a file of what is asked has been cut short.
    """
    # Its sentences are read next.
    source.asked.require_whole()
    rows, positions = cloze_batches.draw(source.rows, source.seed, step, source.batch)
    own = partition.local_rows(source.batch)
    return rows[own], positions[own]
