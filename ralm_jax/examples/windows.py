"""Windows of a passage as queries to it: stretches as long as a question, with nothing masked.

The view of Spider (Ram et al. 2022) that keeps its span; the random crops of Contriever (Izacard et al.
2022), of which one side is short. Pure in (seed, position), as all examples are.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ralm_jax.batches import Lengths, QueryPassages, Text
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import features
from ralm_jax.examples.cloze_batches import Queries, generator, held_out
from ralm_jax.examples.masking import word_starts

# Passages that share a title, at most, where it is theirs and not a document's; wordpieces that say anything.
SHARED, SHORTEST_TITLE = 2, 2


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of a batch, before any passage is found for them.

    query [B,L]; passages int32 [B], the row of the passage that each was taken from; spans int32 [B,2], its
    wordpieces of the body, [start, stop); positions int64 [B], by which the random draws of each are keyed.
    relevant: of each query all rows that are no negatives of it, or nothing where that is its passage alone.
    """

    query: Text
    passages: np.ndarray
    spans: np.ndarray
    positions: np.ndarray
    relevant: tuple[frozenset[int], ...] = ()

    @property
    def questions(self) -> np.ndarray:
        """bool [B]: which are labelled questions, taken from no passage."""
        return self.spans[:, 1] == 0


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """Questions to learn from beside windows.

    Attributes:
      pieces: wordpieces of each, int [n].
      gold: rows of the passages that answer it.
      share: of a batch that are questions.
    """

    pieces: Sequence[np.ndarray]
    gold: Sequence[frozenset[int]]
    share: float


def held_out_passages(corpus: Corpus, share: float) -> np.ndarray:
    """bool [N]: the same share of the passages in every run and for every seed, by their content ids."""
    ids = [int(name[:16], 16) for name in corpus.ids.tolist()]
    return held_out(np.array(ids, np.uint64), share)


def queries(corpus: Corpus, share: float, shortest: int) -> Queries:
    """Passages to take windows of: not held out, and of more than `shortest` wordpieces.

    Raises UserError where there is none.
    """
    kept, long = ~held_out_passages(corpus, share), np.asarray(corpus.lengths)[:, 1] > shortest
    left_out = {
        "held out for evaluation": int((~kept).sum()),
        f"of at most {shortest} wordpieces": int((kept & ~long).sum()),
    }
    rows = np.flatnonzero(kept & long)
    if len(rows) < 2:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
        raise UserError(
            f"{corpus.path} has {len(rows)} passages that windows can be taken of, and a query is to be "
            f"told from others: give more text ({reasons or 'it has no more'})"
        )
    return Queries(rows, left_out)


def windows(
    corpus: Corpus,
    rows: np.ndarray,
    positions: np.ndarray,
    lengths: Lengths,
    seed: int,
    *,
    shortest: int,
    longest: int,
    titles: float = 0.0,
) -> Windows:
    """Passage rows [B] -> a window of each, of `shortest` to `longest` wordpieces and of whole words.

    As many as `titles` says ask with the title in its place, where that is the passage's own; see `title`.
    """
    bodies = [body(corpus, row) for row in rows]
    drawn = [
        window(pieces, corpus, generator(seed, int(position)), shortest, longest)
        for pieces, position in zip(bodies, positions, strict=True)
    ]
    texts = [pieces[start:stop] for pieces, (start, stop) in zip(bodies, drawn, strict=True)]
    for i, row in enumerate(rows if titles else ()):
        own = title(corpus, int(row))
        # Another stream than that of the window, which stays what it is without titles.
        if len(own) and generator(seed + 2, int(positions[i])).random() < titles:
            texts[i] = own
    text = features.query_text(corpus, texts, min(longest + 2, lengths.query))
    spans = np.array(drawn, np.int32).reshape(-1, 2)
    return Windows(text, np.asarray(rows, np.int32), spans, np.asarray(positions))


def with_questions(
    corpus: Corpus, asked: Windows, labelled: Labelled, lengths: Lengths, seed: int
) -> Windows:
    """Some of the windows replaced by questions, each with one of its passages; drawn by position."""
    rows, spans = asked.passages.copy(), asked.spans.copy()
    pieces = [row[row != 0][1:-1] for row in asked.query.tokens]
    relevant = [frozenset({int(row)}) for row in rows]
    for i, position in enumerate(asked.positions.tolist()):
        # Another stream than that of the window which stood there.
        rng = generator(seed + 1, position)
        if rng.random() < labelled.share:
            drawn = int(rng.integers(len(labelled.pieces)))
            pieces[i], relevant[i] = labelled.pieces[drawn], labelled.gold[drawn]
            rows[i], spans[i] = rng.choice(sorted(relevant[i])), 0
    text = features.query_text(corpus, pieces, lengths.query)
    return Windows(text, rows, spans, asked.positions, tuple(relevant))


def title(corpus: Corpus, row: int) -> np.ndarray:
    """The wordpieces of a passage's title, int [n]; none where it says little or names a whole document.

    It names a document where more than SHARED passages in a row have it.
    """
    length = int(corpus.lengths[row, 0])
    own = np.asarray(corpus.tokens[row, :length])
    near = slice(max(0, row - SHARED), row + SHARED + 1)
    alike = np.asarray(corpus.lengths[near, 0]) == length
    alike &= (np.asarray(corpus.tokens[near, :length]) == own).all(1)
    return own if length >= SHORTEST_TITLE and alike.sum() <= SHARED else own[:0]


def body(corpus: Corpus, row: int) -> np.ndarray:
    """The wordpieces of a passage without its title, int [n]."""
    title, length = (int(n) for n in corpus.lengths[row])
    return np.asarray(corpus.tokens[row, title : title + length])


def window(
    pieces: np.ndarray, corpus: Corpus, rng: np.random.Generator, shortest: int, longest: int
) -> tuple[int, int]:
    """[start, stop) of a stretch that begins with a word and ends with one, of at most `longest` pieces.

    Every number of pieces from `shortest` on is as likely, then every word that leaves room as the first.
    A word that is longer than all of it is cut.
    """
    begins = word_starts(pieces, corpus.vocabulary)
    size = int(rng.integers(shortest, longest + 1))
    room = begins[begins <= max(len(pieces) - size, 0)]
    start = int(rng.choice(room))
    ends = np.append(begins[begins > start], len(pieces))
    fitting = ends[ends <= start + size]
    stop = int(fitting[-1]) if len(fitting) else start + size
    return start, min(stop, len(pieces))


def with_negatives(
    corpus: Corpus,
    asked: Windows,
    found: np.ndarray,
    length: int,
    *,
    negatives: int,
    kept: float = 1.0,
) -> QueryPassages:
    """Windows and neighbours [B,K], best first -> each with its own passage and `negatives` of the others.

    They are drawn from the neighbours, each as likely. Where there are too few, the own passage stands again:
    it is no negative of its query (see `marginal.in_batch`), though it is one of the others. Of a passage
    longer than `length` a part is taken at random, and of the own one a part around the window, which stays
    in it as often as `kept` says and where little else would be left.
    """
    rows = np.repeat(asked.passages[:, None], 1 + negatives, axis=1)
    parts, cuts = np.zeros((*rows.shape, 2), np.int32), np.zeros((*rows.shape, 2), np.int32)
    out = left_out(asked, found)
    for i, own in enumerate(asked.passages):
        rng = generator(int(own), int(asked.positions[i]))
        others = found[i][(found[i] >= 0) & (found[i] != own) & ~out[i]]
        drawn = rng.permutation(others)[:negatives]
        rows[i, 1 : 1 + len(drawn)] = drawn
        if rng.random() >= kept:
            start, stop = asked.spans[i]
            if corpus.lengths[own, 1] >= 2 * (stop - start):
                cuts[i, rows[i] == own] = start, stop
        for j, row in enumerate(rows[i]):
            span = asked.spans[i] if row == own else np.zeros(2, int)
            parts[i, j] = part(corpus, row, length, rng, span, cuts[i, j])
    return _read(corpus, asked.query, rows, length, part=parts, cut=cuts)


def with_others(
    corpus: Corpus, asked: Windows, found: np.ndarray, length: int, count: int
) -> QueryPassages:
    """Windows and neighbours [B,K], best first -> each with the best of the others, and some more.

    They are drawn from the neighbours, each as likely; the own passage stands where there are too few. A
    labelled question has its own passage first.
    """
    rows = np.repeat(asked.passages[:, None], count, axis=1)
    parts = np.zeros((*rows.shape, 2), np.int32)
    out = left_out(asked, found)
    for i, own in enumerate(asked.passages):
        rng = generator(int(own), int(asked.positions[i]))
        others = found[i][(found[i] >= 0) & (found[i] != own) & ~out[i]]
        best = [own] if asked.questions[i] else others[:1]
        rest = rng.permutation(others[len(best) - asked.questions[i] :])
        drawn = np.concatenate([best, rest])[:count].astype(int)
        rows[i, : len(drawn)] = drawn
        for j, row in enumerate(rows[i]):
            parts[i, j] = part(corpus, row, length, rng)
    return _read(corpus, asked.query, rows, length, part=parts)


def _read(
    corpus: Corpus, query: Text, rows: np.ndarray, length: int, **spans: np.ndarray
) -> QueryPassages:
    """Queries with passages [B,C], as wide as they need; spans as for `features.passage_text`, [B,C,2]."""
    width = needed(corpus, rows, length)
    flat = {name: each.reshape(-1, 2) for name, each in spans.items()}
    texts = features.passage_text(corpus, rows.reshape(-1), width, **flat)
    shape = (*rows.shape, width)
    return QueryPassages(query, Text(*(x.reshape(shape) for x in texts)), rows.astype(np.int32))


def left_out(asked: Windows, rows: np.ndarray) -> np.ndarray:
    """bool [B,n]: which of rows [n] or [B,n] are a window's own passage, or others that answer a question."""
    rows = np.broadcast_to(rows, (len(asked.passages), rows.shape[-1]))
    known = asked.relevant or [{int(own)} for own in asked.passages]
    out = np.stack([np.isin(each, list(own)) for each, own in zip(rows, known, strict=True)])
    return out & ~(asked.questions[:, None] & (rows == asked.passages[:, None]))


def part(
    corpus: Corpus,
    row: int,
    length: int,
    rng: np.random.Generator,
    span: Sequence[int] | np.ndarray = (0, 0),
    cut: Sequence[int] | np.ndarray = (0, 0),
) -> tuple[int, int]:
    """[start, stop) of the body of a passage: as much as fits `length`, with the span unless it is empty.

    What is cut out of it leaves room for more.
    """
    title, body = (int(n) for n in corpus.lengths[row])
    # Of which three are special.
    room = min(body, max(0, length - 3 - title) + int(cut[1] - cut[0]))
    low, high = 0, body - room
    if 0 < span[1] - span[0] <= room:
        low, high = max(low, int(span[1]) - room), min(high, int(span[0]))
    start = int(rng.integers(low, high + 1))
    return start, start + room


def needed(corpus: Corpus, rows: np.ndarray, most: int) -> int:
    """Wordpieces that the longest of the passages needs, in quarters of `most`: four shapes to compile."""
    longest = int(np.asarray(corpus.lengths)[rows.reshape(-1)].astype(int).sum(1).max()) + 3
    quarter = -(-most // 4)
    return min(most, quarter * -(-longest // quarter))
