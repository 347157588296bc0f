"""A host's share of an index: its rows, where their vectors lie, and how they are searched with the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Set
from pathlib import Path

import jax
import numpy as np

from ralm_jax import partition
from ralm_jax.hosts import slices
from ralm_jax.hosts.searching import OverHosts
from ralm_jax.hosts.vectors import FromOwners
from ralm_jax.retrieval import index
from ralm_jax.retrieval.searcher import Searcher


@dataclasses.dataclass(frozen=True)
class Share:
    """Of one process that trains alone, everything.

    Attributes:
      root: of the versions that one process alone makes.
      rows: of the passages, whose vectors this process holds.
      passages, width: N and E.
      corpus: its fingerprint.
    """

    root: Path
    rows: range
    passages: int
    width: int
    corpus: str

    @classmethod
    def of(cls, root: Path, shape: tuple[int, int], corpus: str, chunk: int) -> Share:
        """Of N passages, embedded a chunk at a time. Raises UserError where they are fewer than hosts."""
        rows = slices.slices(shape[0], chunk, jax.process_count())[jax.process_index()]
        return cls(root, rows, *shape, corpus)

    @property
    def folder(self) -> Path:
        return slices.folder(self.root, jax.process_index(), jax.process_count())

    @property
    def fingerprint(self) -> str:
        return slices.stamp(self.corpus, self.rows, self.passages)

    def searcher(self, own: Searcher) -> Searcher:
        """Of all passages, given one of the share."""
        return own if jax.process_count() == 1 else OverHosts(own, self.rows.start)

    def vectors(self, step: int) -> np.ndarray | FromOwners:
        """Of all passages, of a version that was made or verified here: [N,E], indexed by rows."""
        own = index.open_version(self.folder, step, self.fingerprint, verify=False).vectors
        return own if jax.process_count() == 1 else FromOwners(own, self.rows)

    def take_over(self, before: int, step: int) -> str:
        """Cuts a version anew that so many processes made; returns what a person should know of it."""
        place = jax.process_index(), jax.process_count()
        slices.recut(
            self.root, before, place, step, (self.corpus, self.rows, self.passages, self.width)
        )
        return (
            f"processes at this checkpoint: {before}, now: {place[1]}; the index of step {step} is cut anew, "
            f"{len(self.rows):,} of {self.passages:,} passages for the first"
        )

    def prune(self, keep: Set[int]) -> None:
        """Removes what other numbers of processes left, save the versions to keep."""
        if jax.process_index() == 0:
            slices.prune_others(self.root, jax.process_count(), keep)


def mean_over_hosts(value: float) -> float:
    """Of those hosts that have one; NaN is none."""
    values = partition.gather_rows(np.array([value], np.float32))
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
