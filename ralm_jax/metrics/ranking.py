"""How well a ranking finds what was wanted: recall at k, reciprocal rank, and the measures of trec_eval."""

from collections.abc import Mapping, Sequence, Set

import ir_measures
import numpy as np
from ir_measures import AP, RR, nDCG

# As `ir_measures` takes them, by the names that reports have.
MEASURES = {"ndcg@10": nDCG @ 10, "mrr@10": RR @ 10, "map": AP}


def recall_at_k(
    ranked: np.ndarray, gold: Sequence[Set[int]], ks: Sequence[int]
) -> dict[int, tuple[int, int]]:
    """For how many queries one of the gold passages is among the first k.

    Args:
      ranked: int [Q, K], passage ids of each query, best first; negative where there are fewer.
      gold: for each of the Q queries, the ids of the passages that answer it. A query without any
        counts, as a miss.
      ks: depths, each at most K.

    Returns:
      {k: (hits, queries)}.
    """
    if too_deep := [k for k in ks if k > ranked.shape[1]]:
        raise ValueError(f"recall at {too_deep} needs more than the {ranked.shape[1]} ids given")
    first = _first_hits(ranked, gold)
    return {k: (int(np.sum(first < k)), len(gold)) for k in ks}


def all_ranked(ranked: np.ndarray, passages: int, depth: int) -> np.ndarray:
    """Rankings [Q, K] of all of so few passages, made `depth` wide with -1: none is ranked behind the last.

    So recall at a depth beyond the corpus is the recall over all passages there are. Rankings that
    leave out some of the passages are returned as they are.
    """
    missing = depth - ranked.shape[1]
    if ranked.shape[1] < passages or missing <= 0:
        return ranked
    return np.pad(ranked, ((0, 0), (0, missing)), constant_values=-1)


def mrr(ranked: np.ndarray, gold: Sequence[Set[int]]) -> tuple[float, int]:
    """Sum of 1 / rank of the first gold passage (0 where none is ranked), and the queries.

    Arguments as in `recall_at_k`; the sum divided by the count is the mean reciprocal rank at K.
    """
    return float(np.sum(1 / (1 + _first_hits(ranked, gold)))), len(gold)


def judged(
    ranked: Sequence[Sequence[str]], gold: Sequence[Mapping[str, int]]
) -> dict[str, np.ndarray]:
    """nDCG@10, MRR@10 and MAP of each query, float [Q] by name, as trec_eval has them.

    Args:
      ranked: the documents found for each query, best first, each once.
      gold: the grades, from 1, of those that answer it, at least one, whether found or not; they are what
        nDCG gains, and the other measures take them as alike.
    """
    names = [str(query) for query in range(len(gold))]
    pairs = list(zip(names, gold, strict=True))
    relevant = [
        ir_measures.Qrel(name, *judgment) for name, some in pairs for judgment in some.items()
    ]
    # By rank, since trec_eval breaks ties of scores by the names of documents.
    found = [
        ir_measures.ScoredDoc(name, document, -float(place))
        for name, documents in zip(names, ranked, strict=True)
        for place, document in enumerate(documents)
    ]
    values = {measure: np.zeros(len(gold)) for measure in MEASURES.values()}
    for one in ir_measures.iter_calc(list(values), relevant, found):
        values[one.measure][int(one.query_id)] = one.value
    return {name: values[measure] for name, measure in MEASURES.items()}


def fused(rankings: Sequence[np.ndarray], k: int, smoothing: int = 60) -> np.ndarray:
    """Reciprocal-rank fusion (Cormack et al. 2009): rankings [Q,n] -> the k best [Q,k]; -1 is none."""
    out = np.full((len(rankings[0]), k), -1, np.int32)
    for query in range(len(out)):
        score: dict[int, float] = {}
        for ranking in rankings:
            for place, row in enumerate(ranking[query].tolist()):
                if row >= 0:
                    score[row] = score.get(row, 0.0) + 1 / (smoothing + place + 1)
        best = sorted(score, key=lambda row: (-score[row], row))[:k]
        out[query, : len(best)] = best
    return out


def _first_hits(ranked: np.ndarray, gold: Sequence[Set[int]]) -> np.ndarray:
    """float [Q]: position from 0 of each query's first gold passage, infinite where none is."""
    first = np.full(len(gold), np.inf)
    for query, (row, wanted) in enumerate(zip(ranked.tolist(), gold, strict=True)):
        hits = (place for place, passage in enumerate(row) if passage >= 0 and passage in wanted)
        first[query] = next(hits, np.inf)
    return first
