"""Batches as a pure function of (seed, step): which sentence is asked, and what of it is masked.

The order is grain's index shuffle, so that any step can be asked for at once and a resumed run
sees the same examples; the draw within an example is keyed by (seed, position in the order).
"""

import dataclasses

import grain
import numpy as np

from ralm_jax.batches import ClozeBatch, Lengths, QueryPassages, Text
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import features, views
from ralm_jax.examples.masking import Mask
from ralm_jax.examples.views import View


@dataclasses.dataclass(frozen=True)
class Queries:
    """Which sentences may be asked: rows of `corpus.sentences`, int64 [n], and why the others may not."""

    rows: np.ndarray
    left_out: dict[str, int]


def held_out(groups: np.ndarray, share: float) -> np.ndarray:
    """uint64 group hashes -> bool: the same share of groups in every run and for every seed."""
    return (groups >> np.uint64(11)).astype(np.float64) / 2.0**53 < share


def held_out_sentences(corpus: Corpus, share: float) -> np.ndarray:
    """bool [num_sentences]: sentences with a span whose fact (or passage) is held out."""
    out = np.zeros(len(corpus.sentences), bool)
    out[corpus.spans[held_out(np.asarray(corpus.span_groups), share), 0]] = True
    return out


def with_span(corpus: Corpus, query_length: int) -> np.ndarray:
    """bool [num_sentences]: has a salient span that the query length does not cut off."""
    start = corpus.sentences[corpus.spans[:, 0], 1]
    fits = corpus.spans[:, 2] - start <= query_length - 2
    out = np.zeros(len(corpus.sentences), bool)
    out[corpus.spans[fits, 0]] = True
    return out


def queries(corpus: Corpus, share: float, usable: dict[str, np.ndarray]) -> Queries:
    """Sentences to train on: not held out, and true in every mask of `usable` (reason -> bool [n])."""
    keep = ~held_out_sentences(corpus, share)
    left_out = {"held out for evaluation": int((~keep).sum())}
    for reason, mask in usable.items():
        left_out[reason] = int((keep & ~mask).sum())
        keep &= mask
    rows = np.flatnonzero(keep)
    if not len(rows):
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
        raise UserError(f"no sentence of {corpus.path} can be a query: {reasons or 'it has none'}")
    return Queries(rows, left_out)


def draw(rows: np.ndarray, seed: int, step: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a step, in an order that is shuffled for each epoch: (rows [B], positions in it [B])."""
    order = grain.MapDataset.range(len(rows)).seed(seed).shuffle().repeat()
    positions = np.arange(step * batch, (step + 1) * batch)
    return rows[np.array([order[int(i)] for i in positions])], positions


def generator(seed: int, position: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, position]))


@dataclasses.dataclass(frozen=True)
class Clozes:
    """Masked queries of a batch, before any passage is retrieved for them.

    query [B,L], what the retriever sees; masked [B,L], what the reader does; positions and targets int32
    [B,M] and weights float32 [B,M], of `masked`; passages int32 [B], the row of the passage that each query
    was taken from.
    """

    query: Text
    masked: Text
    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    passages: np.ndarray


def span_rows(corpus: Corpus, sentence: int) -> slice:
    """The rows of `corpus.spans` that are of a sentence."""
    column = corpus.spans[:, 0]
    # Keys of another type would make numpy convert, and so copy, the whole column at every call.
    return slice(*np.searchsorted(column, np.array([sentence, sentence + 1], column.dtype)))


def sentence_spans(corpus: Corpus, row: int, query_length: int) -> np.ndarray:
    """int [s,2]: spans of a sentence, relative to it, that fit the query."""
    spans = corpus.spans[span_rows(corpus, row), 1:3] - corpus.sentences[row, 1]
    return spans[spans[:, 1] <= query_length - 2]


def sentence_tokens(corpus: Corpus, row: int) -> np.ndarray:
    passage, start, stop = corpus.sentences[row]
    title = int(corpus.lengths[passage, 0])
    return np.asarray(corpus.tokens[passage, title + start : title + stop])


def clozes(
    corpus: Corpus,
    rows,
    positions,
    mask: Mask,
    lengths: Lengths,
    seed: int,
    view: View = views.masked,
) -> Clozes:
    """Sentence rows [B] -> masked queries. Every masked piece becomes [MASK]; the first M count."""
    v = corpus.vocabulary
    hidden, seen, where, targets = [], [], [], []
    for row, position in zip(rows, positions, strict=True):
        tokens = sentence_tokens(corpus, row)[: lengths.query - 2]
        spans = sentence_spans(corpus, row, lengths.query)
        rng = generator(seed, int(position))
        chosen = mask(tokens, spans, v, rng)
        seen.append(view(tokens, chosen, v, rng))
        index = np.flatnonzero(chosen)[: lengths.masked]
        hidden.append(np.where(chosen, v.mask, tokens))
        # [CLS] stands before the sentence.
        where.append(index + 1)
        targets.append(tokens[index])
    weights = features.pad([np.ones(len(w)) for w in where], lengths.masked)
    return Clozes(
        query=features.query_text(corpus, seen, lengths.query),
        masked=features.query_text(corpus, hidden, lengths.query),
        positions=features.pad(where, lengths.masked),
        targets=features.pad(targets, lengths.masked),
        weights=weights.astype(np.float32),
        passages=np.asarray(corpus.sentences[rows, 0]),
    )


def taken(asked: Clozes, rows: np.ndarray) -> Clozes:
    """Some of the clozes, by their places."""
    return Clozes(
        Text(*(x[rows] for x in asked.query)),
        Text(*(x[rows] for x in asked.masked)),
        asked.positions[rows],
        asked.targets[rows],
        asked.weights[rows],
        asked.passages[rows],
    )


def with_candidates(
    corpus: Corpus,
    asked: Clozes,
    found: np.ndarray,
    lengths: Lengths,
    lexical: np.ndarray | None = None,
) -> ClozeBatch:
    """Clozes, candidate rows [B,K], and BM25 of them if the prior has it; column 0 is NULL, -2 none."""
    valid = found > -2
    rows = np.where(valid, found, features.NULL)
    b, k = rows.shape
    passages = features.passage_text(corpus, rows.reshape(-1), lengths.passage)
    return ClozeBatch(
        query=asked.query,
        candidates=Text(*(x.reshape(b, k, lengths.passage) for x in passages)),
        joint=features.joint_text(corpus, asked.masked, rows, lengths.joint),
        valid=valid,
        positions=asked.positions,
        targets=asked.targets,
        weights=asked.weights,
        lexical=lexical,
    )


def needed(corpus: Corpus, lengths: Lengths, *, titles: bool) -> np.ndarray:
    """Wordpieces of each passage behind a sentence that is drawn, or with its title if that is more: [N]."""
    title, body = np.asarray(corpus.lengths).astype(int).T
    sentences = np.asarray(corpus.sentences)
    asked = np.zeros(len(body), int)
    if len(sentences):
        drawn = sentences[np.random.default_rng(0).integers(len(sentences), size=len(body))]
        asked = np.minimum(drawn[:, 2] - drawn[:, 1], lengths.query - 2)
    return np.minimum(body + 3 + (np.maximum(title, asked) if titles else asked), lengths.joint)


def candidates(found: np.ndarray, own: np.ndarray | None, k: int) -> np.ndarray:
    """Neighbours [B,n], best first -> candidate rows [B,K]: null, then the best that are not own.

    Dropped: the query's own passage (`own` [B]; None allows it) and -1, which an index gives where
    it has fewer than n. Places left over hold -2. n = K is enough: one for the own passage.
    """
    keep = found >= 0
    if own is not None:
        keep &= found != own[:, None]
    order = np.argsort(~keep, axis=1, kind="stable")[:, : k - 1]
    best = np.where(np.take_along_axis(keep, order, 1), np.take_along_axis(found, order, 1), -2)
    missing = k - 1 - best.shape[1]
    best = np.pad(best, ((0, 0), (0, max(0, missing))), constant_values=-2)
    return np.concatenate([np.full((len(found), 1), features.NULL), best], axis=1).astype(np.int32)


def candidates_with_own(found: np.ndarray, own: np.ndarray, k: int) -> np.ndarray:
    """As `candidates`, but the query's own passage is always one: if need be, in the place of the worst."""
    chosen = candidates(found, None, k)
    absent = ~(chosen == own[:, None]).any(1)
    chosen[absent, -1] = own[absent]
    return chosen


def inverse_cloze_pairs(
    corpus: Corpus,
    rows: np.ndarray,
    positions: np.ndarray,
    lengths: Lengths,
    seed: int,
    *,
    keep_share: float = 0.1,
    mask: Mask | None = None,
    mask_share: float = 0.0,
) -> QueryPassages:
    """Sentence rows [B] -> each sentence and its passage without it (ORQA: kept in 10%).

    mask_share of the queries have spans masked as in pretraining, so that masked queries are not
    foreign to the retriever when joint training begins.
    """
    v = corpus.vocabulary
    sentences, cuts = [], corpus.sentences[rows, 1:3].astype(np.int32)
    for i, (row, position) in enumerate(zip(rows, positions, strict=True)):
        rng = generator(seed, int(position))
        if rng.random() < keep_share:
            cuts[i] = 0
        tokens = sentence_tokens(corpus, row)
        if mask is not None and rng.random() < mask_share:
            tokens = tokens[: lengths.query - 2]
            hide = mask(tokens, sentence_spans(corpus, row, lengths.query), v, rng)
            tokens = np.where(hide, v.mask, tokens)
        sentences.append(tokens)
    passages = np.asarray(corpus.sentences[rows, 0], np.int32)
    texts = features.passage_text(corpus, passages, lengths.passage, cuts)
    return QueryPassages(
        query=features.query_text(corpus, sentences, lengths.query),
        passages=Text(texts.tokens[:, None], texts.types[:, None]),
        rows=passages[:, None],
    )
