"""What a run finds, beside what a person could have for nothing: its start, BM25, and both fused."""

from collections.abc import Sequence

import numpy as np

from ralm_jax.inference.embedding import Ranking
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.lexical.bm25 import Bm25
from ralm_jax.metrics.ranking import fused

# What every run is compared with, in the order of the table; and the run itself.
ROWS = {
    "bm25": "BM25",
    "start": "start, dense",
    "rrf": "start and BM25, fused by rank",
    "fixed_mix": "start and BM25, fixed weights",
    "retriever": "this run, dense",
    "mixed": "this run with BM25",
}
# Of BM25, divided by the query's best, beside 20 times a cosine.
FIXED_WEIGHT = 15.0
FIXED_SCALE = 20.0


def rankings(
    opened: OpenRun, start: OpenRun | None, questions: Sequence[str], bm25: Bm25 | None, k: int
) -> dict[str, Ranking]:
    """The rows of ROWS that there are, by name: [Q,k] each.

    Args:
      start: that the run began from; without it the run itself is what BM25 is fused with.
      bm25: over the texts of the passages; None leaves out every row that has BM25 in it.
    """
    text = opened.encode(questions)
    found = {"retriever": opened.search(text, k, lexical_weight=0.0)}
    if start is not None:
        found["start"] = start.search(text, k, lexical_weight=0.0)
    if bm25 is not None:
        found["bm25"] = Ranking(*bm25.search(questions, k))
        before = start or opened
        both = fused([found["start" if start else "retriever"].rows, found["bm25"].rows], k)
        found["rrf"] = Ranking(both, np.where(both < 0, -np.inf, 0.0))
        found["fixed_mix"] = before.search(text, k, lexical_weight=fixed_weight(before))
        weight = opened.lexical_weight or fixed_weight(opened)
        found["mixed"] = opened.search(text, k, lexical_weight=weight)
    return {name: found[name] for name in ROWS if name in found}


def fixed_weight(opened: OpenRun) -> float:
    """FIXED_WEIGHT for the scale that a model's inner products have before a softmax."""
    return FIXED_WEIGHT * opened.model.score_scale / FIXED_SCALE
